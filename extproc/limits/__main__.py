"""`python -m extproc.limits --socket PATH --settings FILE`: runs the rate limit service until it is told to stop.

SIGTERM and SIGINT drain it; SIGHUP reads the settings again, as a change of the file does.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import structlog
import uvloop
from watchfiles import Change, awatch

from extproc import logs
from extproc.limits import settings as documents
from extproc.limits.counters import Counters
from extproc.limits.desk import Desk
from extproc.limits.guard import Guard
from extproc.limits.journal import Journal
from extproc.limits.memory import MemoryStore
from extproc.limits.redis_store import RedisStore
from extproc.limits.service import Service
from extproc.limits.settings import Settings, SettingsError

_GRACE_S = 5.0
_LOOK_MS = 1000
_Stamp = tuple[int, int, int] | None
_log = structlog.get_logger(__name__)


def main() -> int:
    """The exit status: 0 stopped, 2 could not start."""
    parser = argparse.ArgumentParser(prog="extproc.limits", description=__doc__)
    parser.add_argument("--socket", required=True, help="path of the unix socket to serve on")
    parser.add_argument("--settings", type=Path, required=True, help="the settings, as JSON")
    parser.add_argument("--journal", type=Path, help="where what is spent of long windows is kept over restarts")
    options = parser.parse_args()
    logs.to_stderr()
    try:
        uvloop.run(_serve(options.socket, options.settings, options.journal))
    except (OSError, SettingsError) as error:
        print(f"extproc.limits: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(socket: str, file: Path, journal: Path | None) -> None:
    loop = asyncio.get_running_loop()
    stop, again = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, again.set)
    stamp = _stamp(file)
    settings = documents.read(file)
    counters = Counters()
    async with AsyncExitStack() as stack:
        guard = _guard(settings, counters)
        if guard is not None:
            stack.push_async_callback(guard.close)
            await guard.probe()
        local = MemoryStore(journal=Journal(journal) if journal else None)
        stack.push_async_callback(local.close)
        desk = Desk(settings, local, guard, counters)
        service = Service(socket, desk, counters)
        await service.start()
        stack.push_async_callback(service.drain, _GRACE_S)
        await stack.enter_async_context(_background(_watch(file, stamp, again.set)))
        await stack.enter_async_context(_background(_follow(file, settings, desk, again)))
        _log.info("limits: ready", socket=socket, rules=len(settings.rules))
        await stop.wait()


def _guard(settings: Settings, counters: Counters) -> Guard | None:
    """Raises SettingsError when the variable that should hold the URL is not set, or holds something else."""
    redis = settings.redis
    if redis is None:
        return None
    url = os.environ.get(redis.url_env, "")
    if not url:
        raise SettingsError(f"redis.url_env: the environment variable {redis.url_env} is not set")
    try:
        store = RedisStore(url, prefix=redis.prefix, timeout_s=redis.timeout_ms / 1000)
    except ValueError:  # its text may repeat the URL, which holds a password
        raise SettingsError(
            f"redis.url_env: {redis.url_env} holds no URL of a Redis: redis://, rediss:// or unix:// is expected"
        ) from None
    return Guard(store, counters)


async def _watch(file: Path, seen: _Stamp, changed: Callable[[], None]) -> None:
    """Sees the file replaced as well as rewritten, so it is the folder that is watched; and looks now and then."""

    def relevant(_: Change, path: str) -> bool:
        return Path(path).name == file.name

    watching = awatch(
        file.parent, watch_filter=relevant, debounce=50, step=25, rust_timeout=_LOOK_MS, yield_on_timeout=True
    )
    try:
        async for _ in watching:
            now = _stamp(file)
            if now != seen:
                seen = now
                changed()
    except OSError as error:
        _log.error("the settings cannot be watched: send SIGHUP when they change", reason=str(error))


def _stamp(file: Path) -> _Stamp:
    """What differs between two contents of a file; None when it cannot be seen."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


async def _follow(file: Path, settings: Settings, desk: Desk, again: asyncio.Event) -> None:
    """Puts changed settings in force. Those that cannot be used change nothing."""
    while True:
        await again.wait()
        again.clear()
        try:
            changed = documents.read(file)
        except (OSError, SettingsError) as error:
            _log.error("new settings cannot be used; the old ones stay", reason=str(error))
            continue
        if changed.redis != settings.redis:
            _log.error("another Redis needs a new process; the old settings stay", setting="redis")
        elif changed != settings:
            settings = changed
            desk.update(settings)
            _log.info("limits: new settings", rules=len(settings.rules))


@asynccontextmanager
async def _background(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


if __name__ == "__main__":
    sys.exit(main())
