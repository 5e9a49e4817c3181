"""The collector as the control plane sees it: what it is told, how it is started, what it says."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from controlplane.compiling import Compiled
from controlplane.plan.denials import Spent, spent
from controlplane.policy.secrets import SecretRef
from controlplane.policy.webhooks import endpoint
from controlplane.runtime.child import Child
from controlplane.runtime.folder import RunFolder, usage_log
from controlplane.runtime.parts import Part
from controlplane.runtime.supervise import Supervisor
from controlplane.xds.accounting import lower
from extproc.usage.accounting import dump
from extproc.usage.webhooks import endpoints

NAME = "usage"
LEDGER = "HEADGATE_LEDGER"


@dataclass
class Accounting:
    """Files of the accounting: what must survive lies in the state folder."""

    folder: RunFolder
    state: Path
    ledger: SecretRef | None = None  # as of the start: an edit takes effect at the next one
    _url: str = field(default="", repr=False)

    @property
    def log(self) -> Path:
        return usage_log(self.state)

    @property
    def standing(self) -> Path:
        """Where the collector tells how accounts stand."""
        return self.log.with_name("standing.json")

    @property
    def denials(self) -> Path:
        """What the collector counted of refused requests, for the audit log."""
        return self.log.with_name("denials.json")

    @property
    def heartbeat(self) -> Path:
        """What the collector touches while it goes on. Not in the state folder, whose disk may be full."""
        return self.folder.path / "usage.beat"

    @property
    def url(self) -> str:
        """The URL of the ledger, as of the last policy that was told; it may hold a password."""
        return self._url or f"sqlite:///{self.log.with_name('ledger.db')}"

    def tell(self, compiled: Compiled) -> Child:
        """Writes the accounting document of a policy; the collector that reads it.

        Raises:
            RunFolderError: the document cannot be written.
        """
        document = self.folder.write("accounting.json", dump(lower(compiled.plan)))
        argv = [sys.executable, "-m", "extproc.usage", "--log", str(self.log), "--document", str(document)]
        argv += ["--standing", str(self.standing), "--memory", str(self.log.with_name("memory.json"))]
        argv += ["--heartbeat", str(self.heartbeat)]
        argv += ["--outbox", str(self.log.with_name("outbox")), "--envoy-admin", self.folder.admin_socket]
        if self.ledger is not None and self.ledger in compiled.secrets:
            self._url = compiled.secrets[self.ledger].reveal()  # its password may change while the gateway runs
        env = MappingProxyType({LEDGER: self.url, endpoints.VARIABLE: _endpoints(compiled)})
        return Child(name=NAME, argv=tuple(argv), env=env, stop_s=10.0)

    def told(self) -> dict[str, Any]:
        """What the collector last told; nothing before it did for the first time, or if the file is damaged."""
        try:
            found = json.loads(self.standing.read_bytes())
        except (OSError, ValueError):
            found = None
        return found if isinstance(found, dict) else {"accounts": [], "alarms": []}

    def spent(self) -> tuple[Spent, ...]:
        """Accounts that have nothing left."""
        try:
            return spent(self.told())
        except (KeyError, TypeError):
            return ()


@dataclass(frozen=True, slots=True)
class Collecting(Part):
    """Runs the collector."""

    accounting: Accounting
    supervisor: Supervisor

    async def prepare(self, compiled: Compiled) -> None:
        """Raises StartError, RunFolderError."""
        await self.supervisor.start(self.accounting.tell(compiled))


def _endpoints(compiled: Compiled) -> str:
    """Where webhooks go, secrets included. Only those that a budget names."""
    named = {name for account in compiled.plan.accounts for name in account.webhooks}
    return endpoints.dump(
        endpoint(webhook.name, compiled.policy, compiled.secrets)
        for webhook in compiled.plan.webhooks
        if webhook.name in named
    )
