"""Records that the ledger refuses, set aside: nothing is dropped, and nothing waits for them."""

from pathlib import Path

import orjson

from extproc.usage.record import UsageRecord


class Refused:
    """A file with a JSON object a line: the record, and why it was refused. The operator looks at it and removes it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, record: UsageRecord, problem: str) -> None:
        """Raises OSError."""
        shown = {name: _plain(value) for name, value in {**record._asdict(), **record.tokens._asdict()}.items()}
        del shown["tokens"]  # which stand beside by their kinds
        with self._path.open("ab") as file:
            file.write(orjson.dumps({"problem": problem, "record": shown}) + b"\n")

    def alarm(self) -> str:
        """What the operator must know; "" without such records."""
        try:
            size = self._path.stat().st_size
        except OSError:
            return ""
        return f"the ledger refused records, which are set aside in {self._path}: {size} bytes" if size else ""


def _plain(value: object) -> object:
    """What JSON takes: no half of a surrogate pair, no number beyond 64 bits."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    return str(value) if isinstance(value, int) and abs(value) >= 2**63 else value
