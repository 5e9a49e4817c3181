"""What the rim reads from this machine: secrets, certificate authorities, sockets."""

import errno
import os
import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import certifi

from controlplane.policy.fixtures import FixtureReader
from controlplane.policy.folders import Lister
from controlplane.policy.language import Policy
from controlplane.policy.mock import MockProvider
from controlplane.policy.secrets import SecretRef
from controlplane.runtime.folder import RunFolder
from controlplane.xds.surroundings import Surroundings

_MOST_FILES = 10_000  # a model has a few; what has more is some other folder


def secret_reader(base: Path) -> Callable[[SecretRef], str]:
    """Reads environment variables, and files relative to `base`. Raises LookupError or OSError."""

    def read(ref: SecretRef) -> str:
        if ref.kind == "env":
            value = os.environ.get(ref.name)
            if value is None:
                raise LookupError(f"the environment variable {ref.name} is not set")
            return value
        return _regular(base / ref.name).read_text(encoding="utf-8")

    return read


def _regular(file: Path) -> Path:
    """A device could be read for ever, and a pipe would be waited for."""
    mode = file.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a device, a pipe or a socket, not a file", str(file))
    return file


def secret_files(base: Path, refs: tuple[SecretRef, ...]) -> frozenset[Path]:
    return frozenset(base / ref.name for ref in refs if ref.kind == "file")


def folder_lister(base: Path) -> Lister:
    """Lists folders relative to `base`."""

    def files(path: str) -> frozenset[str] | None:
        folder = base / path
        if not os.access(folder, os.R_OK | os.X_OK) or not folder.is_dir():
            return None
        return frozenset(islice(_within(folder), _MOST_FILES))

    return files


def _within(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        yield from (str((Path(place) / name).relative_to(folder)) for name in names)


def fixture_reader(base: Path) -> FixtureReader:
    """Reads fixtures relative to `base`, and tells what is wrong with them."""

    def problems(path: str) -> tuple[str, ...]:
        from sidecars.mock.fixtures.load import FixturesError, read  # noqa: PLC0415 - few policies have fixtures

        try:
            read(base / path)
        except FixturesError as error:
            return tuple(str(problem).removeprefix(f"{base}/") for problem in error.problems)
        return ()

    return problems


def fixture_files(base: Path, policy: Policy) -> frozenset[Path]:
    """The fixtures that a policy names: files, and folders with the files in them."""
    named = (of.fixtures for of in policy.providers.values() if isinstance(of, MockProvider))
    roots = [base / path for path in named if path is not None]
    if not roots:
        return frozenset()
    from sidecars.mock.fixtures.load import files_of  # noqa: PLC0415 - as above

    return frozenset(file for root in roots for file in (root, *files_of(root)))


def surroundings(
    folder: RunFolder | None, usage_log: Path | None = None, rules_log: Path | None = None
) -> Surroundings:
    """Without a run folder (to validate, say) the sockets are names that nothing listens at, and no log is written."""
    made = Surroundings(_ca_bundle(), usage_log=str(usage_log or "/dev/null"))
    if folder is None:
        return made
    made = replace(
        made, service_socket=folder.service_socket, usage_socket=folder.usage_socket, limits_socket=folder.limits_socket
    )
    made = replace(made, rules_log=str(rules_log or "/dev/null"))
    made = replace(made, rules_socket=folder.rules_socket, inside_socket=folder.inside_socket)
    return replace(made, listings_socket=folder.listings_socket)


def _ca_bundle() -> str:
    """The system's certificate authorities; those of certifi where the system has none."""
    system = ssl.get_default_verify_paths()
    for candidate in (system.cafile, "/etc/ssl/certs/ca-certificates.crt"):
        if candidate and Path(candidate).is_file():
            return candidate
    return certifi.where()
