"""How Envoy is started."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from controlplane.runtime.child import Child
from controlplane.runtime.envoy import MODULE, envoy_env
from controlplane.runtime.envoy_admin import EnvoyAdmin
from controlplane.runtime.folder import RunFolder

NAME = "envoy"
# Part of the time to drain in which new connections are still taken, so that load balancers learn of the drain.
_ACCEPTING = 0.25
# How long a stream may go on when its listener changes. A drain at shutdown has a deadline of its own.
_OLD_LISTENER_S = 3600


def envoy_child(
    folder: RunFolder,
    envoy: Path,
    bootstrap: bytes,
    *,
    admin: EnvoyAdmin,
    workers: int | None,
    drain_s: int,
    logs: tuple[Path, ...] = (),
) -> Child:
    """Puts the bootstrap into the run folder and says how to run Envoy on it.

    `workers` is the number of worker threads (None: one per core). `drain_s` is how long requests in flight
    may take to finish when Envoy stops. `logs` are to be bounded.

    Raises:
        RunFolderError: the bootstrap cannot be written.
        EnvoyNotFoundError: Envoy's module was not built.
    """
    file = folder.write("bootstrap.pb", bootstrap)
    argv = [str(envoy), "-c", str(file), "--disable-hot-restart", "--drain-time-s", str(_OLD_LISTENER_S)]
    argv += ["--drain-strategy", "immediate", "--log-level", "warning"]
    # Rejected configuration comes back over xDS; in the log it would be a dump of secrets, and one line for
    # every attempt to reach a control plane that is away.
    argv += ["--component-log-level", "config:error,upstream:error"]
    # An entry of the access log reaches the file after this time, so that is what a killed Envoy can lose.
    argv += ["--file-flush-interval-msec", "100"]
    if workers is not None:
        argv += ["--concurrency", str(workers)]
    return Child(
        name=NAME,
        argv=tuple(argv),
        env=envoy_env(),
        inputs=(bootstrap, MODULE.read_bytes()),
        drain=_drain(admin, drain_s * _ACCEPTING),
        drain_s=drain_s,
        logs=logs,
    )


def _drain(admin: EnvoyAdmin, accept_s: float) -> Callable[[], Awaitable[None]]:
    async def drain() -> None:
        await admin.drain(accept_s)

    return drain
