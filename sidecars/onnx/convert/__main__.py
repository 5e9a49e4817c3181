"""`python -m sidecars.onnx.convert SOURCE DESTINATION`: makes a model folder of safetensors weights."""

import argparse
import sys
from pathlib import Path

from sidecars.onnx.convert import ConvertError, convert


def main() -> int:
    """The exit status: 0 converted, or converted before; 1 not."""
    parser = argparse.ArgumentParser(prog="python -m sidecars.onnx.convert", description=__doc__)
    parser.add_argument("source", type=Path, help="a Hugging Face folder: config.json, tokenizer.json, safetensors")
    parser.add_argument("destination", type=Path, help="the model folder to make")
    options = parser.parse_args()
    try:
        made = convert(options.source, options.destination)
    except (ConvertError, OSError) as problem:
        print(f"convert: {problem}", file=sys.stderr)
        return 1
    if made.unused:
        print(f"convert: not part of the graph: {', '.join(made.unused)}", file=sys.stderr)
    state = "unchanged" if made.cached else "converted"
    print(f"{state}: {made.folder} ({made.parameters:,} parameters)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
