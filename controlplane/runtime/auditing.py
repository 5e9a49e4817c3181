"""The audit log as the control plane writes to it: never in the way of what it records."""

import asyncio
import json
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import structlog

from controlplane.audit.denials import events
from controlplane.audit.entry import Event
from controlplane.audit.log import AuditLog, AuditUnavailableError
from controlplane.audit.read import Page, read

_FLUSH_S = 5.0
_log = structlog.get_logger(__name__)


class Auditing:
    """Tells the log. What the disk refuses waits in memory, and `alarms` says so."""

    def __init__(self, log: AuditLog, denials: Path) -> None:
        """`denials`: the file of the collector's counts of refused requests."""
        self._log, self._denials = log, denials

    async def tell(self, *events: Event) -> None:
        """Returns when the entries are on the disk, or wait for it."""
        with suppress(AuditUnavailableError):
            await asyncio.to_thread(self._log.extend, events)

    def read(self, *, limit: int, before: int | None, action: str, since: datetime | None) -> Page:
        """Entries, newest first. Raises OSError."""
        return read(self._log.folder, since=since, limit=limit, before=before, action=action)

    async def keep_up(self) -> None:
        """Writes, for ever, what had to wait, and what the collector counted."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            await asyncio.to_thread(self.take_denials)
            if self._log.waiting:
                with suppress(AuditUnavailableError):
                    await asyncio.to_thread(self._log.flush)

    def take_denials(self) -> None:
        """Writes the collector's counts, if there are any. A crash before the file is gone writes them twice."""
        try:
            found = events(json.loads(self._denials.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.error("counts of refused requests cannot be read", file=str(self._denials), reason=str(error))
            found = ()
        with suppress(AuditUnavailableError):  # they wait in memory then
            self._log.extend(found)
        with suppress(OSError):
            self._denials.unlink()

    def alarms(self) -> list[dict[str, str]]:
        trouble = self._log.trouble
        if trouble is None:
            return []
        return [{"name": "audit", "message": f"the audit log cannot be written: {trouble}; entries wait in memory"}]
