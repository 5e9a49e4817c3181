"""Builds Envoy's module from the sources beside this file, with the Zig compiler of the `ziglang` package.

python envoy/native/build.py [SOURCE TARGET]
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SOURCE, TARGET = HERE / "module.zig", HERE / "libheadgate.so"


def build(source: Path = SOURCE, target: Path = TARGET) -> None:
    """Raises subprocess.CalledProcessError; the compiler has said why."""
    fresh = target.with_suffix(f".{os.getpid()}")
    argv = [sys.executable, "-m", "ziglang", "build-lib", "-dynamic", "-lc", "-fstrip", "--name", target.stem]
    argv += ["-O", "ReleaseSafe"]  # a mistake ends Envoy, it does not corrupt it
    argv += ["-mcpu", "baseline", *_target(), f"-femit-bin={fresh}", str(source)]
    cache = str(HERE.parents[1] / "build" / "zig")
    environment = {**os.environ, "ZIG_LOCAL_CACHE_DIR": cache, "ZIG_GLOBAL_CACHE_DIR": cache}
    subprocess.run(argv, check=True, env=environment)  # noqa: S603 - all of it is ours
    fresh.replace(target)  # an Envoy that has the old one open keeps it


def _target() -> list[str]:
    """On Linux one that any system of the last years has the C library for."""
    return ["-target", f"{platform.machine()}-linux-gnu.2.28"] if sys.platform == "linux" else []


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:]))
