"""The profiles in force: what a provider's requests meet, kept up to date with the files that say so."""

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sidecars.mock.controls import Controls
from sidecars.mock.faults import Fate, Fates
from sidecars.mock.fixtures.library import Library
from sidecars.mock.fixtures.load import FixturesError, files_of, read
from sidecars.mock.settings import ProfileSettings, SettingsError, parse
from sidecars.mock.steps import Script

_LOOK_S = 0.2
_log = logging.getLogger("mock")

Stamps = Mapping[Path, tuple[int, int, int] | None]


@dataclass(frozen=True, slots=True)
class Profile:
    """How requests are answered. `problem` says why there are no fixtures where some were asked for."""

    settings: ProfileSettings
    defaults: Controls
    fates: Fates
    library: Library | None = None
    problem: str | None = None

    @staticmethod
    def of(settings: ProfileSettings, status: int = 200) -> "Profile":
        """Raises FixturesError."""
        defaults = Controls(
            status=status, delay=settings.delay, chunk_delay=settings.chunk_delay, errors=settings.rates()
        )
        made = Profile(settings, defaults, Fates(settings.seed))
        return made if settings.fixtures is None else made.reread()

    def reread(self) -> "Profile":
        """The same with its fixtures as they are now. Raises FixturesError."""
        assert self.settings.fixtures is not None  # noqa: S101 - asked of profiles with fixtures
        return replace(self, library=Library(read(self.settings.fixtures), self.settings.speed), problem=None)

    def decide(self, controls: Controls, model: str) -> Fate:
        """What becomes of a request. A script that it asked for itself comes before the profile's."""
        if self.settings.scripts and controls.script is None:
            controls = replace(controls, script=self._script(model))
        return self.fates.decide(controls, model)

    def _script(self, model: str) -> Script | None:
        for pattern, script in self.settings.scripts:
            if model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern:
                return script
        return None


class Profiles:
    """A profile for each host name, and one for everybody else. Files that cannot be used change nothing."""

    def __init__(self, default: Profile, settings: Path | None = None) -> None:
        """Raises SettingsError, OSError."""
        self.default = default
        self._file = settings
        self._by_host: dict[bytes, Profile] = {}
        self._digest = ""
        self._problems: dict[str, str] = {}
        self._stamps: Stamps = {}
        if settings is not None:
            self._take(settings.read_bytes())
        self._stamps = _stamps(self._paths())

    def of(self, headers: Iterable[tuple[bytes, bytes]]) -> Profile:
        """The profile of a request, by its host."""
        if self._by_host:
            for name, value in headers:
                if name == b"host":
                    return self._by_host.get(value, self.default)
        return self.default

    def report(self) -> dict[str, object]:
        """Which settings are in force, by the hash of their file, and what could not be taken over."""
        return {"digest": self._digest, "problems": list(self._problems.values())}

    @property
    def followed(self) -> bool:
        """Whether there are files to look after."""
        return self._file is not None or self.default.settings.fixtures is not None

    async def follow(self) -> None:
        """Looks, for ever, whether files changed: a look costs a stat of each, works on every file system, and sees
        links being swapped."""
        while True:
            await asyncio.sleep(_LOOK_S)
            stamps = await asyncio.to_thread(_stamps, self._paths())
            if stamps != self._stamps:
                changed = {path for path in {*stamps, *self._stamps} if stamps.get(path) != self._stamps.get(path)}
                self._stamps = stamps
                self._changed(changed)

    def _changed(self, paths: set[Path]) -> None:
        if self._file in paths:
            try:
                self._take(self._file.read_bytes())
            except (SettingsError, OSError) as error:
                self._tell("settings", f"{self._file}: {error}")
        self.default = self._reread(b"", self.default, paths)
        self._by_host = {host: self._reread(host, profile, paths) for host, profile in self._by_host.items()}
        self._stamps = _stamps(self._paths())

    def _take(self, text: bytes) -> None:
        """Puts settings in force; profiles that did not change go on where they are."""
        wanted = {host.encode(): settings for host, settings in parse(text).items()}
        found = {}
        for host, settings in wanted.items():
            known = self._by_host.get(host)
            found[host] = known if known is not None and known.settings == settings else self._made(host, settings)
        self._by_host = found
        self._digest = hashlib.sha256(text).hexdigest()
        self._problems = {name: of for name, of in self._problems.items() if name.encode() in found or not name}

    def _made(self, host: bytes, settings: ProfileSettings) -> Profile:
        try:
            made = Profile.of(settings)
        except FixturesError as error:
            self._tell(host.decode(), str(error))
            bare = Profile.of(settings.model_copy(update={"fixtures": None}))
            return replace(bare, settings=settings, problem=str(error))
        self._problems.pop(host.decode(), None)
        return made

    def _reread(self, host: bytes, profile: Profile, paths: set[Path]) -> Profile:
        """The profile with its fixtures read again where one of the files is among `paths`."""
        fixtures = profile.settings.fixtures
        if fixtures is None or not any(path == fixtures or fixtures in path.parents for path in paths):
            return profile
        try:
            made = profile.reread()
        except FixturesError as error:
            self._tell(host.decode(), f"{error}\nthe fixtures stay as they were")
            return profile
        self._problems.pop(host.decode(), None)
        return made

    def _tell(self, name: str, problem: str) -> None:
        self._problems[name] = problem
        _log.error("mock: %s", problem)

    def _paths(self) -> list[Path]:
        profiles = (self.default, *self._by_host.values())
        fixtures = [profile.settings.fixtures for profile in profiles]
        return [path for path in (self._file, *fixtures) if path is not None]


def _stamps(paths: Iterable[Path]) -> Stamps:
    """What differs between two contents, of each file and of those in folders."""
    return {file: _stamp(file) for path in paths for file in (path, *files_of(path))}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
