"""`python -m extproc.usage`: runs the collector until it is told to stop."""

import argparse
import gc
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from extproc import logs
from extproc.usage.collector import ROTATE, Collector, Paths
from extproc.usage.envoy import Envoy
from extproc.usage.ledger import Ledger, LedgerError
from extproc.usage.webhooks import endpoints
from extproc.usage.webhooks.courier import Courier

_IDLE_S = 0.05
_COLLECT_S = 60.0  # between looks for garbage
_LAST_S = 5.0  # for reading what is there, once it is to stop


def main() -> int:
    """Exit code 0 after SIGTERM or SIGINT, 1 when the ledger can never be used."""
    args = _arguments()
    logs.to_stderr()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    paths = Paths(args.log, args.document, args.standing, args.memory, args.heartbeat)
    with ExitStack() as stack:
        try:
            ledger = stack.enter_context(Ledger(os.environ.get("HEADGATE_LEDGER", "")))
            courier = _courier(stack, args.outbox)
            envoy = stack.enter_context(Envoy(args.envoy_admin))
            _run(Collector(paths, ledger, envoy, rotate=args.rotate, courier=courier), stop)
        except (LedgerError, ValueError) as error:
            return _failed(error)
    return 0


def _courier(stack: ExitStack, outbox: Path) -> Courier | None:
    """Raises ValueError, without a secret in its text."""
    try:
        found = endpoints.load(os.environ.pop(endpoints.VARIABLE, ""))
    except ValueError:
        raise ValueError(f"{endpoints.VARIABLE} does not hold endpoints") from None
    return stack.enter_context(Courier(outbox, found)) if found else None


def _failed(error: Exception) -> int:
    print(f"extproc.usage: {error}", file=sys.stderr)
    return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="extproc.usage", description=__doc__)
    parser.add_argument("--log", type=Path, required=True, help="Envoy's access log")
    parser.add_argument("--document", type=Path, required=True, help="the accounting document")
    parser.add_argument("--standing", type=Path, required=True, help="where to tell how accounts stand")
    parser.add_argument("--memory", type=Path, required=True, help="where to keep what was learned")
    parser.add_argument("--heartbeat", type=Path, required=True, help="a file to touch while all goes on")
    parser.add_argument("--outbox", type=Path, required=True, help="folder of events that webhooks have yet to tell")
    parser.add_argument("--envoy-admin", required=True, help="the unix socket of Envoy's admin interface")
    parser.add_argument(
        "--rotate", type=int, default=ROTATE, metavar="BYTES", help="begin a new access log after so many"
    )
    return parser.parse_args()


def _run(collector: Collector, stop: threading.Event) -> None:
    # Every request leaves objects without cycles; looking for cycles among them is a quarter of all work.
    gc.disable()
    collected = time.monotonic()
    while not stop.is_set():
        if not collector.step():
            stop.wait(_IDLE_S)
        if time.monotonic() - collected > _COLLECT_S:
            gc.collect()
            collected = time.monotonic()
    deadline = time.monotonic() + _LAST_S
    while collector.step() and time.monotonic() < deadline:
        pass
    collector.finish()


if __name__ == "__main__":
    sys.exit(main())
