"""Events on their way to endpoints, kept on disk until they arrived."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import orjson
import structlog

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to an endpoint: what the outbox keeps. It holds neither URL nor secret."""

    id: str  # unique in the outbox, and a file name
    event: str  # webhook-id
    endpoint: str
    body: str
    created_us: int
    attempts: int = 0
    next_us: int = 0


class Outbox(Protocol):
    """Keeps deliveries over restarts. `put` replaces one with the same id; `remove` of an absent one is no error."""

    def put(self, delivery: Delivery) -> None: ...
    def remove(self, delivery_id: str) -> None: ...
    def pending(self) -> list[Delivery]: ...


class FolderOutbox:
    """A JSON file per delivery. It appears by rename, whole or not at all: kill -9 at any time loses nothing put.

    The files are not synced: what was put in the last seconds before a power cut may be lost.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, delivery: Delivery) -> None:
        """Raises OSError when the disk is full or the folder is gone."""
        unfinished = self._folder / f"{delivery.id}.part"
        unfinished.write_bytes(orjson.dumps(asdict(delivery)))
        unfinished.replace(self._folder / f"{delivery.id}.json")

    def remove(self, delivery_id: str) -> None:
        (self._folder / f"{delivery_id}.json").unlink(missing_ok=True)

    def pending(self) -> list[Delivery]:
        """Oldest first; to be asked before anything is put.

        A file that cannot be read is set aside as `.broken`, with a logged error.
        """
        for unfinished in self._folder.glob("*.part"):
            unfinished.unlink(missing_ok=True)
        found: list[Delivery] = []
        for path in self._folder.glob("*.json"):
            try:
                found.append(Delivery(**orjson.loads(path.read_bytes())))
            except (orjson.JSONDecodeError, TypeError):
                _log.error("webhook outbox: unreadable file set aside", file=path.name)
                path.replace(path.with_suffix(".broken"))
        return sorted(found, key=lambda delivery: (delivery.created_us, delivery.id))
