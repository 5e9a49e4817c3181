"""The profile in force: what requests meet, kept up to date with the files that say so."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sidecars.mock import settings as documents
from sidecars.mock.controls import Controls
from sidecars.mock.faults import Fate, Fates
from sidecars.mock.fixtures.library import Library
from sidecars.mock.fixtures.load import FixturesError, files_of, read
from sidecars.mock.settings import Settings, SettingsError
from sidecars.mock.steps import Script

_LOOK_S = 0.2
_log = logging.getLogger("mock")

_Stamps = Mapping[Path, tuple[int, int, int] | None]


@dataclass(frozen=True, slots=True)
class Profile:
    """How requests are answered. `problem` says why there are no fixtures where some were asked for."""

    settings: Settings
    defaults: Controls
    fates: Fates
    library: Library | None = None
    problem: str = ""

    @staticmethod
    def of(settings: Settings, status: int = 200) -> "Profile":
        """Raises FixturesError."""
        made = Profile.without_fixtures(settings, status)
        return made if settings.fixtures is None else made.reread()

    @staticmethod
    def without_fixtures(settings: Settings, status: int = 200, problem: str = "") -> "Profile":
        defaults = Controls(
            status=status, delay=settings.delay, chunk_delay=settings.chunk_delay, errors=settings.rates()
        )
        return Profile(settings, defaults, Fates(settings.seed), problem=problem)

    def reread(self) -> "Profile":
        """The same with its fixtures as they are now. Raises FixturesError."""
        assert self.settings.fixtures is not None  # noqa: S101 - asked of profiles with fixtures
        return replace(self, library=Library(read(self.settings.fixtures), self.settings.speed), problem="")

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


class Current:
    """The profile in force. Files that cannot be used change nothing, and are told of."""

    def __init__(self, profile: Profile, file: Path | None = None) -> None:
        """`file` has settings, which come in the place of the profile's. Raises SettingsError, OSError."""
        self.profile = profile
        self._file = file
        self._problem = ""
        if file is not None:
            self._take(documents.read(file))
        self._stamps = self._look()

    def report(self) -> dict[str, str | None]:
        """Which settings are in force, and what is wrong with later ones or with the fixtures."""
        return {"tag": self.profile.settings.tag, "problem": self._problem or None}

    @property
    def followed(self) -> bool:
        """Whether there are files to look after."""
        return self._file is not None or self.profile.settings.fixtures is not None

    async def follow(self) -> None:
        """Looks, for ever, whether files changed: a look costs a stat of each, works on every file system, and sees
        links being swapped."""
        while True:
            await asyncio.sleep(_LOOK_S)
            stamps = await asyncio.to_thread(self._look)
            if stamps != self._stamps:
                settings = self._file is not None and stamps.get(self._file) != self._stamps.get(self._file)
                self._stamps = stamps
                self._change(settings=settings)

    def _change(self, *, settings: bool) -> None:
        """The settings changed, or else the fixtures."""
        try:
            if settings and self._file is not None:
                self._take(documents.read(self._file))
                self._stamps = self._look()
            elif self.profile.settings.fixtures is not None:
                self.profile = self.profile.reread()
                self._problem = ""
        except (SettingsError, FixturesError, OSError) as error:
            self._tell(f"{error}\nwhat was in force before stays")

    def _take(self, wanted: Settings) -> None:
        """Puts settings in force. Where only the tag differs, sequences go on where they are."""
        known = self.profile
        if wanted == known.settings.model_copy(update={"tag": wanted.tag}) and not known.problem:
            self.profile = replace(known, settings=wanted)
            return
        try:
            self.profile = Profile.of(wanted)
            self._problem = ""
        except FixturesError as error:
            self._tell(str(error))
            self.profile = Profile.without_fixtures(wanted, problem=str(error))

    def _tell(self, problem: str) -> None:
        self._problem = problem
        _log.error("mock: %s", problem)

    def _look(self) -> _Stamps:
        fixtures = self.profile.settings.fixtures
        return _stamps(path for path in (self._file, fixtures) if path is not None)


def _stamps(paths: Iterable[Path]) -> _Stamps:
    """What differs between two contents, of each file and of those in folders."""
    return {file: _stamp(file) for path in paths for file in (path, *files_of(path))}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
