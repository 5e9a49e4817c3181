"""Sees that the settings have changed, and puts them in force."""

from collections.abc import Callable
from pathlib import Path

import structlog
from watchfiles import Change, awatch

from sidecars.onnx import settings as documents
from sidecars.onnx.settings import Settings, SettingsError

_LOOK_MS = 1000
_log = structlog.get_logger(__name__)


async def follow(file: Path, settings: Settings, apply: Callable[[Settings], None]) -> None:
    """Runs until it is cancelled. Settings that cannot be used change nothing, and are told of once."""

    def relevant(_: Change, path: str) -> bool:
        return Path(path).name == file.name

    # The folder is watched, to see the file replaced as well as rewritten; and looked at now and then.
    watching = awatch(
        file.parent, watch_filter=relevant, debounce=50, step=25, rust_timeout=_LOOK_MS, yield_on_timeout=True
    )
    refused = ""
    try:
        async for _ in watching:
            changed, problem = _read(file)
            if problem != refused and problem:
                _log.error("onnx: new settings cannot be used; the old ones stay", why=problem)
            refused = problem
            if changed is not None and changed != settings:
                _tell(settings, changed)
                settings = changed
                apply(changed)
    except OSError as error:
        _log.error("onnx: the settings cannot be followed; changes wait for the next start", why=str(error))


def _read(file: Path) -> tuple[Settings | None, str]:
    """The settings, or why they cannot be used."""
    try:
        return documents.read(file), ""
    except (OSError, SettingsError) as error:
        return None, str(error)


def _tell(old: Settings, new: Settings) -> None:
    _log.info("onnx: new settings", models=list(new.models))
    for name in ("tokenizer_threads", "drain_s"):
        if getattr(old, name) != getattr(new, name):
            _log.warning("onnx: this setting waits for the next start", setting=name)
