"""What a stage is: the values it is given, the values it gives back, and what it needs to see."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import Any, Protocol

import orjson

from extproc.json_splice import MOST_DEPTH, is_shallow

Json = Any


class Endpoint(StrEnum):
    """The API that a request speaks, by its path."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    MESSAGES = "messages"
    COUNT_TOKENS = "count_tokens"
    TOKENIZE = "tokenize"
    OTHER = "other"

    @classmethod
    def of(cls, path: str) -> "Endpoint":
        """From the path of a request, with or without its query."""
        return _PATHS.get(path.partition("?")[0].rstrip("/"), cls.OTHER)

    @property
    def anthropic(self) -> bool:
        """Its errors have Anthropic's shape."""
        return self in (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS)


_PATHS = {
    "/v1/chat/completions": Endpoint.CHAT,
    "/v1/completions": Endpoint.COMPLETIONS,
    "/v1/embeddings": Endpoint.EMBEDDINGS,
    "/v1/responses": Endpoint.RESPONSES,
    "/v1/messages": Endpoint.MESSAGES,
    "/v1/messages/count_tokens": Endpoint.COUNT_TOKENS,
    "/v1/tokenize": Endpoint.TOKENIZE,
}


class Access(IntEnum):
    """How much of a body a stage needs. Of two stages, the greater."""

    NONE = 0
    READ = 1  # a copy will do: the original may be on its way already
    CHANGE = 2  # it may replace, refuse or answer: the original has to wait


@dataclass(frozen=True, slots=True)
class Needs:
    """What a stage has to be shown; the plan takes the cheapest processing mode that shows it.

    `request`: the request's body. `answer`: the body of an answer that is one JSON document, whole. `stream`: the
    events of a streamed answer, as they come. `headers`: request headers, lower case. `closed`: without this stage the
    request must fail; else it may go on.
    """

    request: Access = Access.NONE
    answer: Access = Access.NONE
    stream: Access = Access.NONE
    headers: frozenset[str] = frozenset()
    closed: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            max(self.request, other.request),
            max(self.answer, other.answer),
            max(self.stream, other.stream),
            self.headers | other.headers,
            self.closed or other.closed,
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that the client gets instead of an answer, in the words of OpenAI's error object."""

    status: int
    code: str
    message: str
    param: str | None = None
    type: str = "invalid_request_error"

    def body(self, endpoint: Endpoint = Endpoint.OTHER) -> bytes:
        """The JSON document of the answer, in the shape of the endpoint's API."""
        if endpoint.anthropic:
            return orjson.dumps({"type": "error", "error": {"type": self.type, "message": self.message}})
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})

    def event(self, endpoint: Endpoint = Endpoint.OTHER) -> bytes:
        """The event that ends a stream which has begun already."""
        return b"%bdata: %b\n\n" % (b"event: error\n" if endpoint.anthropic else b"", self.body(endpoint))


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that a stage gives itself. The provider is not asked.

    `cached`: it is one that a provider gave before, so that usage counts it as a hit.
    """

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    cached: bool = False


@dataclass(frozen=True)
class Request:
    """A request as a stage sees it. `raw` is the body as bytes, `body` the same parsed, an object always.

    `headers`: lower case. `model`: the name the client asked for. `client`: its identity, as authentication wrote it.
    Make one with `opened`, which checks the body.
    """

    endpoint: Endpoint
    raw: bytes
    model: str = ""
    key: str = ""
    team: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    now: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    client: str = ""

    @cached_property
    def body(self) -> dict[str, Any]:
        return orjson.loads(self.raw)  # type: ignore[no-any-return]

    @property
    def streamed(self) -> bool:
        return self.body.get("stream") is True

    def changed(self, raw: bytes) -> "Request":
        """The same request with another body, which must be a JSON object."""
        return Request(self.endpoint, raw, self.model, self.key, self.team, self.headers, self.now)


# What rules look at and change. Servers written in Go read `Messages` for `messages`, so it must not slip past a rule.
_PARAMETERS = frozenset(
    ("model", "messages", "prompt", "suffix", "input", "system", "instructions", "query", "documents", "prediction",
     "tools", "tool_choice", "functions", "function_call", "stream", "stream_options", "max_tokens",
     "max_completion_tokens", "max_output_tokens", "temperature", "top_p", "top_k", "n", "stop", "stop_sequences",
     "seed", "user", "metadata", "response_format", "logprobs", "top_logprobs", "logit_bias", "presence_penalty",
     "frequency_penalty", "reasoning", "reasoning_effort", "thinking", "modalities", "audio")
)  # fmt: skip


def opened(request: Request) -> Refusal | None:
    """Parses the body; what is wrong with it, if it is no JSON object in UTF-8 of bounded depth
    with different names."""
    try:
        body = request.body
    except orjson.JSONDecodeError as error:
        return Refusal(400, "invalid_json", f"The body is not valid JSON: {error.msg} (character {error.pos}).")
    if not isinstance(body, dict):
        return Refusal(400, "invalid_json", "The body is JSON, but not an object.")
    if not is_shallow(request.raw):
        return Refusal(400, "invalid_json", f"The body is nested deeper than {MOST_DEPTH} levels.")
    for name in body:
        if name not in _PARAMETERS and name.casefold() in _PARAMETERS:
            return Refusal(400, "invalid_json", f"The body has the name {name!r}: write {name.casefold()!r}.", name)
    return _twice(request.raw)


def _twice(raw: bytes) -> Refusal | None:
    """A name that an object has twice: parsers read one or the other, so no stage could vouch for what is read."""
    try:
        _NAMES.decode(raw.decode())
    except _TwiceError as error:
        return Refusal(400, "invalid_json", f"The body has the name {error.args[0][:64]!r} twice in one object.")
    return None


def _names(members: list[tuple[str, Any]]) -> None:
    if len(dict(members)) != len(members):
        counts = Counter([name for name, _ in members])
        raise _TwiceError(counts.most_common(1)[0][0])


class _TwiceError(Exception):
    pass


_NAMES = json.JSONDecoder(object_pairs_hook=_names, parse_int=float)  # int refuses numbers of thousands of digits


class Question(Protocol):
    """What a stage has to be told by others before it can go on; whoever runs the stage asks them.

    `patience_s`: how long that may take, where it is longer than a message of an exchange may take otherwise.
    """

    @property
    def patience_s(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage did. Nothing, by default.

    `body`: the new body. `refusal`, `reply`: the request goes no further. `model`: the name to route by from now on.
    `headers`: to set on the way to the provider. `answer_headers`: to set on the way to the client.
    `metadata`: to log; values are JSON. `state`: handed to this stage's answer side.
    `question`: the stage did nothing yet: its `told` says what, once that is answered.
    """

    body: bytes | None = None
    refusal: Refusal | None = None
    reply: Reply | None = None
    model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)
    state: object = None
    question: Question | None = None


NOTHING = Outcome()


class Stream(Protocol):
    """One streamed answer. What `feed` and `end` return is to be sent at once; memory is bounded.

    `end` may be called more than once, and then returns nothing. `closed`: the stage ended the stream by itself; what
    the provider still sends is dropped. `metadata` is whole after the end.
    """

    @property
    def closed(self) -> bool: ...

    @property
    def metadata(self) -> Mapping[str, Json]: ...

    def feed(self, data: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class Holding(ABC):
    """A stream that is judged as a whole: nothing goes out before its end, and then somebody may be asked.

    `feed` raises OverflowError for more than `most` bytes.
    """

    def __init__(self, most: int) -> None:
        self.closed = False
        self.metadata: Mapping[str, Json] = {}
        self._most = most
        self._held = bytearray()

    def feed(self, data: bytes) -> bytes:
        self._held += data
        if len(self._held) > self._most:
            raise OverflowError(f"the stream has more than {self._most} bytes")
        return b""

    def end(self) -> bytes:
        return b""

    def held(self) -> bytes:
        """What came so far. It is not forgotten."""
        return bytes(self._held)

    @abstractmethod
    def judge(self) -> Question | None:
        """Called once, after the end of what is not empty. None: what it held may go out."""

    @abstractmethod
    def told(self, answer: object) -> bytes:
        """What goes out, once the question is answered. None: nobody could tell."""


class Stage(Protocol):
    """One configured stage: stateless, shared by all requests of its route."""

    @property
    def needs(self) -> Needs: ...

    def request(self, request: Request) -> Outcome:
        """Called once with the request's body."""

    def told(self, request: Request, state: object, answer: object) -> Outcome:
        """Called with the answer to its question, and the state that came with it. None: nobody could tell."""

    def answer(self, request: Request, state: object, body: bytes) -> Outcome:
        """Called with the body of a successful answer that is not a stream. Any bytes may come.

        It may ask, too: `told` is called then.
        """

    def stream(self, request: Request, state: object) -> Stream | Holding | None:
        """Called when a streamed answer begins. None: this stage has nothing to do with it."""


class Plain:
    """A stage that does nothing; stages override what they need."""

    needs = Needs()

    def request(self, request: Request) -> Outcome:
        return NOTHING

    def told(self, request: Request, state: object, answer: object) -> Outcome:
        return NOTHING

    def answer(self, request: Request, state: object, body: bytes) -> Outcome:
        return NOTHING

    def stream(self, request: Request, state: object) -> Stream | Holding | None:
        return None
