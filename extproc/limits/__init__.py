"""Limits that one Envoy cannot keep alone: shared by a fleet, strict on tokens and money, or on concurrency."""
