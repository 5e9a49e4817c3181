"""`python -m extproc.cache --socket PATH --memory BYTES`: runs the store of the response cache until told to stop.

The URL of a Redis is read from HEADGATE_REDIS_URL. SIGTERM and SIGINT end it.
"""

import argparse
import asyncio
import os
import signal
import sys
import time

import structlog
import uvloop

from extproc import logs
from extproc.cache import URL_ENV
from extproc.cache.desk import Desk
from extproc.cache.embeddings import Embeddings
from extproc.cache.memory import MemoryStore
from extproc.cache.redis_store import RedisStore
from extproc.cache.service import Service
from extproc.cache.shared_vectors import SharedVectors

_log = structlog.get_logger(__name__)


def main() -> int:
    """The exit status: 0 stopped, 2 could not start."""
    parser = argparse.ArgumentParser(prog="extproc.cache", description=__doc__)
    parser.add_argument("--socket", required=True, help="path of the unix socket to serve on")
    parser.add_argument("--memory", type=int, required=True, help="bytes of the entries that are kept in memory")
    parser.add_argument("--inside", default="", help="path of the unix socket on which the gateway serves its own")
    options = parser.parse_args()
    logs.to_stderr()
    try:
        uvloop.run(_serve(options.socket, options.memory, options.inside, os.environ.get(URL_ENV, "")))
    except (OSError, ValueError) as error:
        print(f"extproc.cache: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(socket: str, memory: int, inside: str, redis_url: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    service, embeddings = Service(socket), Embeddings(inside)
    redis = RedisStore(redis_url) if redis_url else None
    store = MemoryStore(memory, time.monotonic)
    vectors = SharedVectors(redis, memory) if redis is not None else None
    service.desk = Desk(store, redis, embeddings, service.tell, time.monotonic, vectors)
    await service.start()
    _log.info("cache: ready", socket=socket)
    await stop.wait()
    await service.stop()
    await embeddings.close()
    if redis is not None:
        await redis.close()


if __name__ == "__main__":
    sys.exit(main())
