"""What the operator must know: each alarm stands until its reason is gone, and is logged when it begins and ends."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

_log = structlog.get_logger()
_NOTED_S = 3600.0  # how long an odd thing that happened is shown


@dataclass
class Alarms:
    """Alarms by name. A note is an alarm about something that happened once: it ends by itself."""

    _standing: dict[str, str] = field(default_factory=dict)
    _notes: dict[str, tuple[float, str]] = field(default_factory=dict)

    def set(self, name: str, message: str) -> None:
        if name not in self._standing:
            _log.error("alarm", name=name, message=message)
        self._standing[name] = message

    def clear(self, name: str) -> None:
        if self._standing.pop(name, None) is not None:
            _log.warning("alarm over", name=name)

    def only(self, name: str, messages: Mapping[str, str]) -> None:
        """Alarms about several of a kind, such as endpoints: these stand, and no others of that name."""
        wanted = {f"{name}/{who}": message for who, message in messages.items()}
        for each in [known for known in self._standing if known.startswith(f"{name}/") and known not in wanted]:
            self.clear(each)
        for each, message in wanted.items():
            self.set(each, message)

    def note(self, name: str, who: str, message: str) -> None:
        key = f"{name}/{who}"
        if key not in self._notes:
            _log.warning("noted", name=name, who=who, message=message)
        self._notes[key] = (time.monotonic() + _NOTED_S, f"{who}: {message}")

    def list(self) -> list[dict[str, str]]:
        now = time.monotonic()
        self._notes = {key: note for key, note in self._notes.items() if note[0] > now}
        noted = {key: message for key, (_, message) in self._notes.items()}
        return [{"name": name, "message": text} for name, text in {**self._standing, **noted}.items()]
