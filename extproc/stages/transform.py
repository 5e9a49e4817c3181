"""The stage `transform`: parameters, token caps, system prompts, headers; and members taken out of answers.

{"operations": [{"set": {"temperature": 0}}, {"system": {"text": "Be brief, {team}."}}, {"remove_from_answer": ["id"]}]}
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from extproc.json_splice import Document
from extproc.stages import paths
from extproc.stages.operations import Operation, changes, texts
from extproc.stages.protocol import NOTHING, Access, Needs, Outcome, Plain, Request, Stream
from extproc.stages.removal import Removing, without
from extproc.stages.settings import STRICT
from extproc.stages.template import Template, template


@dataclass(frozen=True, slots=True)
class Settings:
    """In this order, each on what the one before left."""

    operations: tuple[Operation, ...]
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


class Transform(Plain):
    """Requests are changed by splicing; answers lose the members that are named, streamed ones event by event."""

    def __init__(self, settings: Settings) -> None:
        all_ = settings.operations
        self._changes = [change for operation in all_ for change in changes(operation)]
        self._headers = _templates(operation.headers for operation in all_)
        self._answer_headers = _templates(operation.answer_headers for operation in all_)
        self._metadata = _templates(operation.metadata for operation in all_)
        self._removed = tuple(paths.steps(text) for operation in all_ for text in operation.remove_from_answer or ())
        answer = Access.CHANGE if self._removed else Access.NONE
        headers = frozenset(name for operation in all_ for text in texts(operation) for name in text.headers)
        self.needs = Needs(Access.CHANGE if self._changes else Access.NONE, answer, answer, headers)

    def request(self, request: Request) -> Outcome:
        body = None
        if self._changes:
            document = Document(request.raw)
            for change in self._changes:
                change(document, request)
            body = document.render() if document.changed else None
        return Outcome(
            body=body,
            headers=_header_values(self._headers, request),
            answer_headers=_header_values(self._answer_headers, request),
            metadata={name: text.of(request) for name, text in self._metadata.items()},
        )

    def answer(self, request: Request, state: object, body: bytes) -> Outcome:
        less = without(body, self._removed)
        return NOTHING if less is body else Outcome(body=less)

    def stream(self, request: Request, state: object) -> Stream | None:
        return Removing(request.endpoint, self._removed) if self._removed else None


def _templates(named: Iterable[Mapping[str, str] | None]) -> dict[str, Template]:
    return {name: template(text) for members in named for name, text in (members or {}).items()}


def _header_values(templates: Mapping[str, Template], request: Request) -> Mapping[str, str]:
    """Control characters would end the header: a model's name comes from the client."""
    return {
        name: "".join([c if c.isprintable() else " " for c in text.of(request)]) for name, text in templates.items()
    }
