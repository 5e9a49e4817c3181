"""The command line: `python -m sidecars.mock --listen 127.0.0.1:9100`."""

import argparse
import logging
import sys
from collections.abc import Callable
from typing import TypeVar

from sidecars.listen import AddressError, parse_address
from sidecars.mock.app import Settings, build_app
from sidecars.mock.controls import Controls, duration, status
from sidecars.mock.server import Tls, serve

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
    add("--delay", type=_checked(duration), default=0.0, metavar="TIME", help="wait this long before every answer")
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
    defaults = Controls(status=options.status, delay=options.delay)
    settings = Settings(options.name, options.api_key, defaults, options.record)
    tls = Tls(options.tls_cert, options.tls_key, options.tls_client_ca) if options.tls_cert else None
    try:
        serve(build_app(settings), options.listen, tls)
    except AddressError as problem:
        print(f"mock: {problem}", file=sys.stderr)
        return 2
    except OSError as problem:
        print(f"mock: cannot use the TLS files: {problem}", file=sys.stderr)
        return 2
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
