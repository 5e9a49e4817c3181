"""A file that is touched while the collector goes on: the control plane sees by it when it hangs."""

import time
from contextlib import suppress
from pathlib import Path

BEAT_S = 1.0


class Heartbeat:
    """The file. There is none until the ledger was reached for the first time: to migrate it may take long."""

    def __init__(self, path: Path) -> None:
        self._path, self._next = path, 0.0
        with suppress(OSError):  # of the collector before
            path.unlink(missing_ok=True)

    def beat(self) -> None:
        """To be called in every round. Costs nothing but every second."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + BEAT_S
            with suppress(OSError):  # its folder is gone: nobody looks any more
                self._path.touch(0o600)
