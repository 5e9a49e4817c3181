"""`python -m extproc.usage`: runs the collector until it is told to stop."""

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

import httpx
import structlog

from extproc.usage.collector import Collector, Paths
from extproc.usage.ledger import Ledger, LedgerError, LedgerUnavailable

_IDLE_S = 0.05
_ABSENT_S = 1.0


def main() -> int:
    """Exit code 0 after SIGTERM or SIGINT, 1 when the ledger can never be used."""
    parser = argparse.ArgumentParser(prog="extproc.usage", description=__doc__)
    parser.add_argument("--log", type=Path, required=True, help="Envoy's access log")
    parser.add_argument("--document", type=Path, required=True, help="the accounting document")
    parser.add_argument("--standing", type=Path, required=True, help="where to tell how accounts stand")
    parser.add_argument("--memory", type=Path, required=True, help="where to keep what was learned")
    parser.add_argument("--envoy-admin", required=True, help="the unix socket of Envoy's admin interface")
    args = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    paths = Paths(args.log, args.document, args.standing, args.memory)
    try:
        ledger = _open(os.environ["HEADGATE_LEDGER"], stop)
        if ledger is None:
            return 0
    except LedgerError as error:
        print(f"extproc.usage: {error}", file=sys.stderr)
        return 1
    with httpx.Client(transport=httpx.HTTPTransport(uds=args.envoy_admin), base_url="http://envoy", timeout=5) as envoy:
        collector = Collector(paths, ledger, lambda: _reopen(envoy))
        while not stop.is_set():
            if not collector.step():
                stop.wait(_IDLE_S)
        while collector.step():
            pass
        collector.save()
    ledger.close()
    return 0


def _open(url: str, stop: threading.Event) -> Ledger | None:
    """Waits for a ledger that is away; usage waits in the log meanwhile."""
    while not stop.is_set():
        try:
            return Ledger.open(url)
        except LedgerUnavailable as error:
            structlog.get_logger().error("the ledger is away", reason=str(error))
            stop.wait(_ABSENT_S)
    return None


def _reopen(envoy: httpx.Client) -> bool:
    try:
        return envoy.post("/reopen_logs").is_success
    except httpx.TransportError:
        return False  # without an Envoy there is nothing to reopen


sys.exit(main())
