"""An environment as vLLM has one of its own, with a stand-in for the package: for tests of how servers are kept."""

import shutil
import subprocess
import sys
from pathlib import Path

_STAND_IN = Path(__file__).with_name("fake_api_server.py")


def make(folder: Path) -> Path:
    """Makes a virtual environment in the folder; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    package = next(folder.glob("lib/python3.*/site-packages")) / "vllm/entrypoints/openai"
    package.mkdir(parents=True)
    for each in (package, package.parent, package.parent.parent):
        each.joinpath("__init__.py").touch()
    shutil.copy(_STAND_IN, package / "api_server.py")
    return folder / "bin/python"
