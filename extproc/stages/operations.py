"""The operations of the stage `transform`: their settings, and the change of a document that each of them is."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import AfterValidator, ConfigDict

from extproc.json_splice import Document
from extproc.stages import paths, system_prompt, values
from extproc.stages.protocol import Endpoint, Request
from extproc.stages.settings import STRICT, bounds
from extproc.stages.template import Template, template

_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")
_NOT_RULED = frozenset(
    ("host", "connection", "content-length", "content-type", "content-encoding", "accept-encoding", "keep-alive",
     "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)  # fmt: skip
CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
# The endpoints that generate text, and what each calls its cap.
_CAPPED_BY = {
    Endpoint.CHAT: "max_tokens",
    Endpoint.COMPLETIONS: "max_tokens",
    Endpoint.MESSAGES: "max_tokens",
    Endpoint.RESPONSES: "max_output_tokens",
}
# OpenAI's models that think refuse the older name of the cap, other servers the newer one.
_NEWER = re.compile(r"(?:.*/)?(?:o[1-9]|gpt-[5-9])")
Change = Callable[[Document, Request], object]


def _template(text: str) -> str:
    template(text)  # raises ValueError
    return text


def _header(name: str) -> str:
    """In lower case. What says how a message is sent is not for rules to say, nor what the gateway tells itself."""
    lowered = name.lower()
    if not _HEADER.fullmatch(lowered):
        raise ValueError(f"{name!r} is no name of a header: letters, digits and hyphens are expected, as in x-team")
    if lowered in _NOT_RULED or lowered.startswith(("x-headgate-", "x-envoy-")):
        raise ValueError(f"{name!r} is the gateway's own: a header of another name is expected, as in x-team")
    return lowered


def _path(text: str) -> str:
    if paths.EVERY in paths.steps(text):
        raise ValueError(f"{text!r}: [*] is for answers")
    return text


def _values(value: Any) -> Any:
    values.compiled(value)  # raises ValueError
    return value


def _answer_path(text: str) -> str:
    if not isinstance(paths.steps(text)[-1], str):
        raise ValueError(f"{text!r} is an element: the name of a member is expected at its end")
    return text


Header = Annotated[str, AfterValidator(_header)]
Text = Annotated[str, AfterValidator(_template)]
Path = Annotated[str, AfterValidator(_path)]
Value = Annotated[Any, AfterValidator(_values)]


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, each optional."""

    least: float | int | None = None
    most: float | int | None = None
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        bounds(self.least, self.most)


@dataclass(frozen=True, slots=True)
class Cap:
    """`most` tokens of output, whatever the parameter is called. `add`: also to requests that state no cap."""

    most: int
    add: bool = False
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not 1 <= self.most <= 10**8:
            raise ValueError(f"most is {self.most}: 1 to 100000000 is expected")


@dataclass(frozen=True, slots=True)
class System:
    """A system prompt. `role` is for OpenAI chat."""

    text: Text
    mode: system_prompt.Mode = "prepend"
    role: Literal["system", "developer"] = "system"
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True)
class Operation:
    """Exactly one of these. Texts within `set` and `default` are templates, and so are headers and metadata."""

    set: Mapping[Path, Value] | None = None
    default: Mapping[Path, Value] | None = None
    remove: tuple[Path, ...] | None = None
    rename: Mapping[Path, str] | None = None
    clamp: Mapping[Path, Range] | None = None
    max_tokens: Cap | None = None
    system: System | None = None
    headers: Mapping[Header, Text] | None = None
    answer_headers: Mapping[Header, Text] | None = None
    metadata: Mapping[str, Text] | None = None
    remove_from_answer: tuple[Annotated[str, AfterValidator(_answer_path)], ...] | None = None
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        named = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        if len(named) != 1:
            known = ", ".join(field.name for field in fields(self))
            raise ValueError(f"one operation is expected, here are {len(named)}: one of {known}")


def changes(operation: Operation) -> Iterator[Change]:
    """What it does to a request's body, in order."""
    for path, value in (operation.set or {}).items():
        yield _setting(Document.set, paths.steps(path), values.compiled(value))
    for path, value in (operation.default or {}).items():
        yield _setting(Document.default, paths.steps(path), values.compiled(value))
    for path in operation.remove or ():
        yield _removing(paths.steps(path))
    for path, name in (operation.rename or {}).items():
        yield _renaming(paths.steps(path), name)
    for path, held in (operation.clamp or {}).items():
        yield _clamping(paths.steps(path), held)
    if operation.max_tokens:
        yield _capping(operation.max_tokens)
    if operation.system:
        yield _prompting(operation.system)


def texts(operation: Operation) -> Iterator[Template]:
    """Every template of an operation."""
    for members in (operation.set, operation.default):
        for value in (members or {}).values():
            yield from values.templates(values.compiled(value))
    for named in (operation.headers, operation.answer_headers, operation.metadata):
        yield from (template(text) for text in (named or {}).values())
    if operation.system:
        yield template(operation.system.text)


def _setting(how: Callable[..., bool], path: paths.Steps, value: Any) -> Change:
    if isinstance(value, bytes):
        return lambda document, _: how(document, path, value)
    return lambda document, request: how(document, path, values.filled(value, request))


def _removing(path: paths.Steps) -> Change:
    return lambda document, _: document.remove(path)


def _renaming(path: paths.Steps, name: str) -> Change:
    # Where both names are present the new one stays; the old one must not reach a provider that does not know it.
    return lambda document, _: document.rename(path, name) or document.remove(path)


def _prompting(system: System) -> Change:
    text = template(system.text)

    def change(document: Document, request: Request) -> None:
        now = request.changed(document.render()) if document.changed else request
        system_prompt.put(document, now, text.of(request), system.mode, system.role)

    return change


def _clamping(path: paths.Steps, bounds: Range) -> Change:
    def change(document: Document, _: Request) -> None:
        raw = document.raw(path)
        if raw is not None:
            value = _bounded(orjson.loads(raw), bounds)
            if value is not None:
                document.set(path, value)

    return change


def _bounded(value: Any, bounds: Range) -> float | int | None:
    """The number that the value has to become; None: it may stay. What is no number becomes a bound: a clamp holds."""
    if value is None:  # null leaves it to the provider
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return bounds.most if bounds.most is not None else bounds.least
    if bounds.most is not None and value > bounds.most:
        return bounds.most
    return bounds.least if bounds.least is not None and value < bounds.least else None


def _capping(cap: Cap) -> Change:
    bounds = Range(least=None, most=cap.most)

    def change(document: Document, request: Request) -> None:
        stated = False
        for name in CAPS:
            raw = document.raw((name,))
            if raw is not None and raw != b"null":
                stated = True
                value = _bounded(orjson.loads(raw), bounds)
                if value is not None:
                    document.set((name,), value)
        if cap.add and not stated and request.endpoint in _CAPPED_BY:
            newer = request.endpoint is Endpoint.CHAT and _NEWER.match(request.model)
            document.set(("max_completion_tokens" if newer else _CAPPED_BY[request.endpoint],), cap.most)

    return change
