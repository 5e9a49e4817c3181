"""The store of usage records: SQLite by default, PostgreSQL in production."""

from extproc.usage.ledger.errors import LedgerError, LedgerUnavailable, NewerLedgerError, RefusedRecordError
from extproc.usage.ledger.ledger import Ledger, OwnerKind
from extproc.usage.ledger.rows import Spent, UnpricedModel, UsageRow

__all__ = [
    "Ledger",
    "LedgerError",
    "LedgerUnavailable",
    "NewerLedgerError",
    "OwnerKind",
    "RefusedRecordError",
    "Spent",
    "UnpricedModel",
    "UsageRow",
]
