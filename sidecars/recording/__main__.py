"""The command line: `python -m sidecars.recording --upstream URL --listen ADDRESS --to FILE`."""

import argparse
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx

from sidecars.listen import AddressError, binding, parse_address
from sidecars.recording.proxy import build_app
from sidecars.serving import Serving, config

_CONNECT_S = 10.0
_GRACE_S = 2


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m sidecars.recording",
        description="A proxy that records exchanges, secrets removed. See docs/replay.md.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--upstream", required=True, metavar="URL", help="where requests go: scheme, host and port")
    add("--listen", required=True, metavar="ADDRESS", help="host:port or unix:/path")
    add("--to", required=True, type=Path, metavar="FILE", help="the file that exchanges are appended to")
    return made


def main() -> int:
    """Runs until told to stop. Returns the exit status: 0 stopped, 2 could not start."""
    options = parser().parse_args()
    upstream = options.upstream.rstrip("/")
    if not re.fullmatch(r"https?://[^\s/@?#]+", upstream):
        parser().error(
            f"--upstream is '{options.upstream}'; expected a URL without a path, such as http://127.0.0.1:8080"
        )
    try:
        address = parse_address(options.listen)
    except ValueError as problem:
        parser().error(f"--listen is '{options.listen}'; expected {problem}")
    with ExitStack() as stack:
        try:
            # What people ask their models is for nobody else to read.
            handle = os.open(options.to, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, handle)
            bound = stack.enter_context(binding([address]))
        except AddressError as problem:
            print(f"record: {problem}", file=sys.stderr)
            return 2
        except OSError as problem:
            print(f"record: cannot write {options.to}: {problem.strerror}", file=sys.stderr)
            return 2
        return _serve(upstream, bound, handle)


def _serve(upstream: str, bound: Sequence[socket.socket], handle: int) -> int:
    client = httpx.AsyncClient(
        timeout=httpx.Timeout(None, connect=_CONNECT_S),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
        follow_redirects=False,
        trust_env=False,
    )
    count = 0

    def write(line: bytes) -> None:
        nonlocal count
        try:
            os.write(handle, line)  # one write, so that a line is never in the middle of another
        except OSError as problem:
            print(f"record: an exchange is lost: {problem.strerror}", file=sys.stderr, flush=True)
        else:
            count += 1

    Serving(config(build_app(upstream, client, write), grace_s=_GRACE_S), bound, _ready(upstream)).run()
    print(f"record: {count} exchange{'' if count == 1 else 's'}", file=sys.stderr, flush=True)
    return 0


def _ready(upstream: str) -> Callable[[Sequence[str]], None]:
    def ready(addresses: Sequence[str]) -> None:
        print("record: ready on", *addresses, "for", upstream, file=sys.stderr, flush=True)

    return ready


if __name__ == "__main__":
    sys.exit(main())
