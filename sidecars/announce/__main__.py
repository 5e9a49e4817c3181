"""`python -m sidecars.announce --url URL --provider NAME --token-env NAME --address IP:PORT`: announces a service.

Runs beside a server that cannot announce itself, such as vLLM. SIGTERM and SIGINT take the service out and end it.
"""

import argparse
import asyncio
import signal
import sys
from dataclasses import replace

import httpx

from sidecars.announce import options
from sidecars.announce.client import Announcer, Said
from sidecars.announce.measure import METRICS, Measure
from sidecars.loglines import log_lines

_ASK_S = 5.0


def main() -> int:
    """The exit status: 0 stopped, 2 could not start."""
    parser = argparse.ArgumentParser(prog="python -m sidecars.announce", description=__doc__)
    parser.add_argument("--url", required=True, help="the control plane's admin API, such as http://10.0.0.1:9800")
    options.add(parser, capacity=16)
    parser.add_argument("--models", default="", help="its models, separated by commas; all by default")
    parser.add_argument("--models-url", default="", help="an OpenAI-style list of models to take them from")
    parser.add_argument("--capabilities", default="", help="what it can do, separated by commas, for people to read")
    parser.add_argument("--metrics-url", default="", help="Prometheus metrics that tell its queue")
    parser.add_argument("--queue-metric", default="", help="the metric of requests that wait; those of vLLM are known")
    parser.add_argument("--running-metric", default="", help="the metric of requests in work")
    parser.add_argument("--health-url", default="", help="what answers with success while it can serve")
    given = parser.parse_args()
    log_lines()
    try:
        token = options.token(given)
        said = options.said(given, given.url)
        said = replace(said, models=_list(given.models), capabilities=_list(given.capabilities))
    except options.OptionsError as error:
        print(f"sidecars.announce: {error}", file=sys.stderr)
        return 2
    asyncio.run(_run(given, token, said))
    return 0


async def _run(given: argparse.Namespace, token: str, said: Said) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    own = (given.queue_metric, given.running_metric)
    names = (own,) if any(own) else METRICS
    async with httpx.AsyncClient(timeout=_ASK_S, trust_env=False) as http:
        measure = Measure(http, given.metrics_url, given.health_url, given.models_url, names)
        await Announcer(given.url, token, said, measure).run(stop)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


if __name__ == "__main__":
    sys.exit(main())
