"""Changes of the policy file and of the files that it refers to."""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path

from watchfiles import Change, awatch

_STEP_MS = 25
_DEBOUNCE_MS = 50
# Some file systems tell nothing, and a watched folder can be deleted: then a look this often has to do.
_LOOK_MS = 100
_LINKS = 40  # as many as the kernel follows

_Stamp = tuple[int, int, int, int]
_Seen = Mapping[Path, _Stamp | None]


def changes(files: Callable[[], Collection[Path]]) -> AsyncGenerator[frozenset[Path], None]:
    """Yields, for ever, the files that changed, appeared or vanished since this call or the last time.

    `files` is asked now and again after every change, so the set may follow the policy; call this before reading
    the files for the first time, and no edit is lost. Editors that replace a file, links that are swapped (as
    Kubernetes does with mounted volumes), and folders that come and go are all noticed. What is still being
    written is waited for. Close the generator (`contextlib.aclosing`) to stop watching.
    """
    return _changes(files, {path: _stamp(path) for path in files()})


async def _changes(files: Callable[[], Collection[Path]], seen: _Seen) -> AsyncGenerator[frozenset[Path], None]:
    while True:
        folders, names = _watched(seen)
        async with aclosing(_wakes(folders, names)) as wakes:
            async for _ in wakes:
                now = await _settled(seen)
                changed = frozenset(path for path, stamp in now.items() if stamp != seen[path])
                if not changed:
                    continue
                yield changed
                seen = {path: now[path] if path in now else _stamp(path) for path in files()}
                if _watched(seen) != (folders, names):
                    break


async def _wakes(folders: frozenset[Path], names: frozenset[str]) -> AsyncGenerator[None, None]:
    """Wakes when something by one of the names changed in a folder, and for every regular look."""

    def relevant(_: Change, path: str) -> bool:
        return os.path.basename(path) in names  # noqa: PTH119 - called for every event in the folders

    watching = awatch(
        *folders,
        watch_filter=relevant,
        debounce=_DEBOUNCE_MS,
        step=_STEP_MS,
        rust_timeout=_LOOK_MS,
        yield_on_timeout=True,
        recursive=False,
        ignore_permission_denied=True,
    )
    try:
        async with aclosing(watching):
            async for _ in watching:
                yield
    except OSError:  # a folder vanished just now, or the system has no watches left
        while True:
            await asyncio.sleep(_LOOK_MS / 1000)
            yield


async def _settled(seen: _Seen) -> _Seen:
    """The files as they are once nobody has touched those that changed for a step."""
    now = {path: _stamp(path) for path in seen}
    while now != seen:
        await asyncio.sleep(_STEP_MS / 1000)
        later = {path: _stamp(path) for path in seen}
        if later == now:
            break
        now = later
    return now


def _stamp(path: Path) -> _Stamp | None:
    """What differs between two contents of a file; None when it cannot be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _watched(paths: Iterable[Path]) -> tuple[frozenset[Path], frozenset[str]]:
    """The folders to watch, and the names in them that matter: of the files, and of links on the way to them."""
    places = [place for path in paths for place in _places(path)]
    return frozenset(folder for folder, _ in places), frozenset(name for _, name in places)


def _places(path: Path) -> list[tuple[Path, str]]:
    """Where a path could change its meaning: each link on the way, and its end, or where it breaks off."""
    places = []
    rest = path.absolute()
    for _ in range(_LINKS):
        step, link = _first_break(rest)
        places.append((step.parent, step.name))
        if not link:
            break
        target = step.parent / step.readlink() / rest.relative_to(step)
        rest = Path(os.path.normpath(target))
    return places


def _first_break(path: Path) -> tuple[Path, bool]:
    """The first part of an absolute path that is a link (True) or cannot be seen; the path itself when none is."""
    for part in (*reversed(path.parents), path):
        try:
            if stat.S_ISLNK(part.lstat().st_mode):
                return part, True
        except OSError:
            return part, False
    return path, False
