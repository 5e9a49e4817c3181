"""The command line: `python -m sidecars.mock --listen 127.0.0.1:9100`."""

import argparse
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sidecars.listen import AddressError, parse_address
from sidecars.mock import settings as documents
from sidecars.mock.app import Settings, build_app
from sidecars.mock.controls import status
from sidecars.mock.delays import delay
from sidecars.mock.fixtures.load import FixturesError
from sidecars.mock.profile import Current, Profile
from sidecars.mock.server import Tls, serve
from sidecars.mock.settings import FaultRate, SettingsError
from sidecars.mock.steps import SCRIPT, Script, rates, script

_T = TypeVar("_T")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m sidecars.mock",
        description="A deterministic stand-in for an OpenAI-compatible provider. See docs/mock.md.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--listen", action="append", required=True, type=_checked(parse_address), metavar="ADDRESS",
        help="host:port or unix:/path; may be given several times")  # fmt: skip
    add("--name", default="mock", type=_checked(_name), help="sent as x-mock-name with every answer")
    add("--api-key", metavar="KEY", help="require this bearer on every request but /health and /mock")
    add("--status", type=_checked(status), default=200, metavar="N", help="answer everything with this status")
    add("--delay", type=_checked(delay), default=0.0, metavar="TIME",
        help="wait this long before every answer: 150ms, or a distribution such as lognormal(300ms,2s)")  # fmt: skip
    add("--chunk-delay", type=_checked(delay), default=0.0, metavar="TIME", help="wait this long before every chunk")
    add("--errors", type=_checked(rates), default=(), metavar="RATES",
        help="let this share of the requests fail: 503=0.05,reset=0.01")  # fmt: skip
    add("--script", action="append", default=[], type=_checked(_script), metavar="MODEL=STEPS",
        help="what requests for a model (exact or ending in *) get in turn: *=ok*2,503,hang,ok...")  # fmt: skip
    add("--seed", type=_checked(_whole), default=0, metavar="N", help="of all that is drawn")
    add("--fixtures", type=Path, metavar="PATH", help="answers from this file, or from the files in this folder")
    add("--strict", type=int, choices=(400, 404), help="answer requests without a fixture with this status")
    add("--speed", type=_checked(_speed), default=1.0, metavar="X", help="replay recordings this much faster")
    add(
        "--settings",
        type=Path,
        metavar="FILE",
        help="settings in the place of those by flags, as the control plane writes them",
    )
    add("--tls-cert", metavar="PEM", help="certificate chain; TCP listeners then speak TLS")
    add("--tls-key", metavar="PEM", help="private key of --tls-cert")
    add("--tls-client-ca", metavar="PEM", help="require client certificates signed by this authority")
    add("--record", type=_checked(_whole), default=256, metavar="N", help="how many of the last requests to keep")
    return made


def main() -> int:
    """Runs until told to stop. Returns the exit status: 0 stopped, 2 could not start."""
    options = parser().parse_args()
    if (options.tls_cert is None) != (options.tls_key is None):
        parser().error("--tls-cert and --tls-key belong together")
    if options.tls_client_ca is not None and options.tls_cert is None:
        parser().error("--tls-client-ca needs --tls-cert and --tls-key")
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    try:
        current = Current(Profile.of(_profile(options), options.status), options.settings)
    except (FixturesError, SettingsError, OSError) as problem:
        print(f"mock: {problem}", file=sys.stderr)
        return 2
    settings = Settings(options.name, options.api_key, current, options.record)
    tls = Tls(options.tls_cert, options.tls_key, options.tls_client_ca) if options.tls_cert else None
    try:
        serve(build_app(settings), options.listen, tls, current.follow if current.followed else None)
    except AddressError as problem:
        print(f"mock: {problem}", file=sys.stderr)
        return 2
    except OSError as problem:
        print(f"mock: cannot use the TLS files: {problem}", file=sys.stderr)
        return 2
    return 0


def _profile(options: argparse.Namespace) -> documents.Settings:
    """What flags say of how requests are answered."""
    return documents.Settings(
        fixtures=options.fixtures,
        strict=options.strict,
        seed=options.seed,
        speed=options.speed,
        delay=options.delay,
        chunk_delay=options.chunk_delay,
        errors=tuple(FaultRate(fault=each.fault, rate=each.rate) for each in options.errors),
        scripts=tuple(options.script),
    )


def _checked(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """`parse` with its ValueError in the words of argparse."""

    def checked(text: str) -> _T:
        try:
            return parse(text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(f"'{text}': expected {problem}") from None

    return checked


def _name(text: str) -> str:
    if not (text and text.isascii() and text.isprintable()):
        raise ValueError("printable ASCII text")
    return text


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("a whole number, 0 or more")
    return int(text)


def _script(text: str) -> tuple[str, Script]:
    model, equals, steps = text.partition("=")
    if not (model and equals):
        raise ValueError(f"MODEL=STEPS, with {SCRIPT}")
    return model, script(steps)


def _speed(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not 0 < float(text) <= 1e9:
        raise ValueError("a number above 0, such as 1 or 10")
    return float(text)


if __name__ == "__main__":
    sys.exit(main())
