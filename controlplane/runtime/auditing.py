"""The audit log as the control plane writes to it: never in the way of what it records."""

import asyncio
from contextlib import suppress

from controlplane.audit.entry import Event
from controlplane.audit.log import AuditLog, AuditUnavailableError
from controlplane.audit.read import Page, read

_FLUSH_S = 5.0


class Auditing:
    """Tells the log. What the disk refuses waits in memory, and `alarms` says so."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def tell(self, *events: Event) -> None:
        """Returns when the entries are on the disk, or wait for it."""
        with suppress(AuditUnavailableError):
            await asyncio.to_thread(self._log.extend, events)

    def read(self, *, limit: int, before: int | None, action: str) -> Page:
        """Entries, newest first. Raises OSError."""
        return read(self._log.folder, limit=limit, before=before, action=action)

    async def keep_up(self) -> None:
        """Writes, for ever, what had to wait."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            if self._log.waiting:
                with suppress(AuditUnavailableError):
                    await asyncio.to_thread(self._log.flush)

    def alarms(self) -> list[dict[str, str]]:
        trouble = self._log.trouble
        if trouble is None:
            return []
        return [{"name": "audit", "message": f"the audit log cannot be written: {trouble}; entries wait in memory"}]
