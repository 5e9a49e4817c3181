"""Retention: old records and fine sums leave the ledger, a few rows at a time, so that nothing waits for it."""

import time

from extproc.usage.accounting import Retention
from extproc.usage.ledger import Ledger

ROWS = 2000  # of a grain in one transaction: some 20 ms
_FIRST_S = 30.0  # after the start, when there is other work
_EVERY_S = 3600.0
_PAUSE_S = 0.2  # between batches: new records come first


class Pruning:
    """When it is time to remove a batch, and the batch."""

    def __init__(self, ledger: Ledger, first_s: float = _FIRST_S) -> None:
        self._ledger = ledger
        self._next = time.monotonic() + first_s

    def work(self, keep: Retention, now_us: int) -> None:
        """Removes the next batch if it is time to. Raises LedgerUnavailable; it is tried again after a while."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY_S
        if self._ledger.prune(now_us, keep.records, keep.minutes, keep.hours, ROWS):
            self._next = time.monotonic() + _PAUSE_S
