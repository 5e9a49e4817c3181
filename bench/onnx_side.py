"""The engine of the ONNX service without the service: `python -m bench.onnx_side FOLDER THREADS`."""

import asyncio
import os
import sys
from pathlib import Path

import numpy as np

from bench.turns import answer
from sidecars.onnx.batch import Priority
from sidecars.onnx.loaded import load, look
from sidecars.onnx.metrics import Metrics
from sidecars.onnx.settings import ModelSettings


def main() -> None:
    threads = int(sys.argv[2])
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # as the service does it, before the first text
    settings = ModelSettings(path=Path(sys.argv[1]))
    loaded = load("bench", look(settings), settings, threads, Metrics().runs_of("bench"))

    async def encode(texts: list[str]) -> object:
        return np.stack(await loaded.engine.submit(loaded.encoder.texts(texts), Priority.NORMAL))

    loop = asyncio.new_event_loop()
    answer(lambda texts: loop.run_until_complete(encode(texts)))
    loop.close()


if __name__ == "__main__":
    main()
