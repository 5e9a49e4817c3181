"""Tells others of budgets: signed and retried HTTP calls."""
