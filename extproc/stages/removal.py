"""Takes members out of answers: of one JSON document, or of each event of a stream."""

import orjson

from extproc.json_splice import Document
from extproc.stages import paths, sse
from extproc.stages.protocol import Endpoint


class Removing(sse.EventStream):
    """Takes members out of the JSON of each event."""

    def __init__(self, endpoint: Endpoint, removed: tuple[paths.Steps, ...]) -> None:
        super().__init__(endpoint)
        self._removed = removed
        self._names = [str(path[-1]).encode() for path in removed]

    def event(self, event: bytes) -> bytes:
        if b"\\" not in event and not any(name in event for name in self._names):
            return event
        data = sse.data_of(event)
        less = without(data, self._removed) if data is not None else data
        return event if less is data or less is None else sse.with_data(event, less)


def without(text: bytes, removed: tuple[paths.Steps, ...]) -> bytes:
    """The text without some members; the same object where it has none of them, or is no JSON."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    document = Document(text)
    for path in removed:
        for found in paths.expanded(path, value):
            document.remove(found)
    return document.render()
