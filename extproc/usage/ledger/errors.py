"""What can go wrong with the ledger."""


class LedgerError(Exception):
    """Anything below. The texts say what, where and what to do, and hold no password."""


class LedgerUnavailable(LedgerError):  # noqa: N818 - a state that passes, and the word that callers know
    """The database is absent, locked, full or gone. Nothing was written; a later call may succeed."""


class NewerLedgerError(LedgerError):
    """The database was written by a newer version."""


class RefusedRecordError(LedgerError):
    """A record that no database could hold: a negative count, text that is no Unicode. Nothing was written.

    `record` is its id: without it, the rest of the batch can be written. `problem` is what is wrong with it.
    """

    def __init__(self, record: str, problem: str) -> None:
        super().__init__(f"usage record {record!r}: {problem}. Correct or drop it, and write the others again.")
        self.record, self.problem = record, problem
