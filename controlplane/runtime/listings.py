"""The files that list endpoints: the last good content of each, and what is wrong with it now."""

from collections.abc import Collection, Iterable
from pathlib import Path

from controlplane.discovery.found import Found
from controlplane.discovery.kept import Files
from controlplane.discovery.listed import read, unusable
from controlplane.policy.diagnostics import Diagnostic, PolicyError
from controlplane.policy.discovery import ByFile
from controlplane.policy.language import Policy
from controlplane.policy.place import path_text


def listings(policy: Policy) -> dict[str, str]:
    """The providers whose endpoints a file lists, each with its path as the policy has it."""
    found = ((name, getattr(provider, "discover", None)) for name, provider in policy.providers.items())
    return {name: each.file for name, each in found if isinstance(each, ByFile)}


def warnings(policy: Policy, base: Path) -> tuple[Diagnostic, ...]:
    """What is wrong with the files that a policy names."""
    files = Listings(base, {})
    files.first_look(listings(policy).values())
    return tuple(unusable(said) for said in files.wrong.values())


class Listings:
    """Reads files, and keeps what they said last as long as they are wrong."""

    def __init__(self, base: Path, known: Files) -> None:
        """`base`: where paths are relative to. `known`: what they said before a restart."""
        self._base = base
        self._good: dict[str, tuple[Found, ...]] = dict(known)
        self.wrong: dict[str, str] = {}  # file -> why what it says now does not count
        self._read: set[str] = set()

    @property
    def good(self) -> Files:
        return self._good

    def path(self, name: str) -> Path:
        return self._base / name

    def endpoints(self, name: str) -> tuple[Found, ...]:
        return self._good.get(name, ())

    def first_look(self, names: Iterable[str]) -> None:
        """Reads those that were not read yet."""
        for name in set(names) - self._read:
            self.look(name)

    def look(self, name: str) -> bool:
        """Reads a file; whether its endpoints are others now."""
        self._read.add(name)
        try:
            found = read(self.path(name).read_bytes(), name)
        except PolicyError as error:
            self.wrong[name] = "; ".join(map(_line, error.errors))
        except OSError as error:
            self.wrong[name] = f"{name}: {error.strerror}"
        else:
            self.wrong.pop(name, None)
            changed = found != self._good.get(name)
            self._good[name] = found
            return changed
        return False

    def alarms(self, names: Collection[str]) -> list[dict[str, str]]:
        """What is wrong with these files."""
        return [
            {"name": "endpoints", "message": f"{said}; {self._instead(name)}"}
            for name, said in sorted(self.wrong.items())
            if name in names
        ]

    def _instead(self, name: str) -> str:
        return "the endpoints before go on" if name in self._good else "the provider has no endpoints until it is right"


def _line(found: Diagnostic) -> str:
    where = str(found.place)
    if found.place and found.place.path:
        where += f" {path_text(found.place.path)}"
    expected = f", expected {found.expected}" if found.expected else ""
    return f"{where}: {found.message}{expected}"
