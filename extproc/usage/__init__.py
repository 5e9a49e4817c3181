"""Every token accounted for: access log -> usage records -> ledger -> budgets."""
