"""The real model that tests use: all-MiniLM-L6-v2, as `make models` makes it."""

import fcntl
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MINILM = "all-minilm-l6-v2"


def minilm_folder() -> Path:
    """Its folder. Made where `make test` has not, by one process of those that ask."""
    folder = ROOT / "models" / MINILM
    if not (folder / "converted.json").is_file():
        (ROOT / "build").mkdir(exist_ok=True)
        with (ROOT / "build" / "models.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            subprocess.run(["make", "models"], cwd=ROOT, check=True, capture_output=True)
    return folder
