"""`python -m extproc.server --socket PATH --settings FOLDER`: runs one worker until it is told to stop.

SIGTERM and SIGINT drain it.
"""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import structlog
import uvloop

from extproc import logs
from extproc.cache.client import Client
from extproc.server.asking import Others
from extproc.server.counters import Counters
from extproc.server.hooks import Hooks
from extproc.server.library import Library
from extproc.server.service import Service

_GRACE_S = 10.0
_log = structlog.get_logger(__name__)


def main() -> int:
    """The exit status: 0 stopped, 2 could not start."""
    parser = argparse.ArgumentParser(prog="extproc.server", description=__doc__)
    parser.add_argument("--socket", required=True, help="path of the unix socket to serve on")
    parser.add_argument("--settings", type=Path, required=True, help="folder of the settings documents")
    parser.add_argument("--cache", help="path of the unix socket of the response cache's store")
    options = parser.parse_args()
    logs.to_stderr()
    try:
        uvloop.run(_serve(options.socket, options.settings, options.cache))
    except OSError as error:
        print(f"extproc.server: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(socket: str, folder: Path, cache: str | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = Client(cache) if cache else None
    hooks = Hooks()
    service = Service(socket, Library(folder), Counters(), Others(client, hooks))
    await service.start()
    _log.info("rules: ready", socket=socket)
    await stop.wait()
    await service.drain(_GRACE_S)
    await hooks.close()
    if client is not None:
        client.close()


if __name__ == "__main__":
    sys.exit(main())
