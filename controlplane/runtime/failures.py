"""Why an edit did not go live: one exception per reason, each able to say so to people and to programs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from controlplane.policy.diagnostics import Diagnostic, PolicyError
from controlplane.revisions.revision import RevisionsError
from controlplane.runtime.child import StartError
from controlplane.runtime.folder import RunFolderError


class ApplyError(Exception):
    """An apply that changed nothing, or was taken back. `code` is stable; `revision` was rolled back, if any."""

    code = "apply-failed"

    def __init__(self, message: str, revision: int | None = None) -> None:
        super().__init__(message)
        self.revision = revision


class UnreadableError(ApplyError):
    """The policy file is gone, or may not be read."""

    code = "policy-unreadable"


class EnvoyRefusedError(ApplyError):
    """Envoy's own validation refused the compiled policy: nothing was pushed."""

    code = "refused-by-envoy"


class RejectedError(ApplyError):
    """A node rejected the push: every node was set back to the revision before."""

    code = "rejected-by-node"


class TimedOutError(ApplyError):
    """Not every node acknowledged in time: every node was set back to the revision before."""

    code = "not-acknowledged"


class ChangedError(ApplyError):
    """Somebody else applied a policy since the one that this one was compared with."""

    code = "changed-meanwhile"


class PortInUseError(ApplyError):
    """The address to listen on is taken by another process."""

    code = "address-in-use"


class RulesError(ApplyError):
    """The workers of rules cannot take the new settings: nothing was pushed."""

    code = "rules-not-ready"


class CacheError(ApplyError):
    """The store of the response cache, which the policy needs, does not run: nothing was pushed."""

    code = "cache-not-ready"


class ServiceError(ApplyError):
    """A service that a provider is cannot run: nothing was pushed."""

    code = "service-not-ready"


class LimitsError(ApplyError):
    """The rate limit service, which the policy needs, does not run."""

    code = "limits-not-ready"


class KeysUnavailableError(ApplyError):
    """The store of issued keys, or the keys that sign them, cannot be used: nothing was pushed."""

    code = "keys-unavailable"


class MachineError(ApplyError):
    """This machine does not let a policy go live: a full disk, a process that cannot be started."""

    code = "machine-refuses"


class NotReadyError(Exception):
    """Envoy did not take the first policy. Its text says where its log is."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The last edit that did not go live, as `ctl status` shows it."""

    at: datetime
    source: str
    code: str
    message: str
    diagnostics: tuple[Diagnostic, ...] = ()


@contextmanager
def of_this_machine() -> Iterator[None]:
    """Turns what the machine refuses into an ApplyError: it ends an edit, never the gateway."""
    try:
        yield
    except (RunFolderError, RevisionsError, StartError, NotReadyError) as error:
        raise MachineError(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise MachineError(f"{where}{error.strerror or error}. Check the free space and the permissions.") from error


def failure(error: PolicyError | ApplyError, at: datetime, source: str) -> Failure:
    if isinstance(error, PolicyError):
        return Failure(at, source, "invalid-policy", str(error), error.errors)
    return Failure(at, source, error.code, str(error))
