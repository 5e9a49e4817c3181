"""`python -m sidecars.onnx --listen ADDRESS --settings FILE`: serves models until it is told to stop.

SIGTERM and SIGINT drain it. It follows changes of the file.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from sidecars.announce import options as announcing
from sidecars.listen import Address, AddressError, parse_address
from sidecars.loglines import log_lines
from sidecars.onnx import settings as documents
from sidecars.onnx.settings import SettingsError

_CAPACITY = 16  # requests that it announces to work on at a time


def main() -> int:
    """The exit status: 0 stopped, 2 could not start."""
    parser = argparse.ArgumentParser(prog="python -m sidecars.onnx", description=__doc__)
    parser.add_argument(
        "--listen", action="append", required=True, type=_address, help="host:port or unix:/path; may be repeated"
    )
    parser.add_argument("--settings", type=Path, required=True, help="the settings, as JSON; see docs/onnx.md")
    parser.add_argument(
        "--announce", metavar="URL", help="announce the service to this control plane, such as http://10.0.0.1:9800"
    )
    announcing.add(parser, capacity=_CAPACITY)
    options = parser.parse_args()
    log_lines()
    try:
        settings = documents.read(options.settings)
        # Read once, when the tokenizers start their threads.
        os.environ["RAYON_NUM_THREADS"] = str(settings.tokenizer_threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        from sidecars.onnx.server import Announced, serve  # noqa: PLC0415 -- after the environment is set

        announced = None
        if options.announce:
            describe = partial(announcing.said, options, options.announce)
            announced = Announced(options.announce, announcing.token(options), describe)
        serve(settings, options.settings, options.listen, announced)
    except ModuleNotFoundError as missing:
        print(f"sidecars.onnx: {missing.name} is not installed; pip install 'headgate[onnx]'", file=sys.stderr)
        return 2
    except (OSError, SettingsError, AddressError, announcing.OptionsError) as error:
        print(f"sidecars.onnx: {error}", file=sys.stderr)
        return 2
    return 0


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"'{text}': expected {problem}") from None


if __name__ == "__main__":
    sys.exit(main())
