"""The response cache: what is looked up, what a hit says, what may be stored. The store is asked by whoever runs it.

{"ttl_s": 3600, "scope": "team", "store": "redis", "deterministic": true}
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import orjson
from pydantic import ConfigDict

from extproc.stages import canonical, replay
from extproc.stages.final import is_final
from extproc.stages.protocol import NOTHING, Access, Endpoint, Needs, Outcome, Plain, Refusal, Reply, Request
from extproc.stages.settings import STRICT
from extproc.stages.similar import Compared, compared
from extproc.stages.sse import EventStream

HEADER, SIMILARITY = "x-headgate-cache", "x-headgate-cache-similarity"
# How long a request waits for the answer to another one that is the same, before it asks the provider itself.
WAIT_S = 60.0
_DIRECTIVE = re.compile(r"([a-z-]+)(?:\s*=\s*\"?(\d{1,10})\"?)?")
_JSON, _SSE = "application/json", "text/event-stream"
_MOST_REQUEST = 1 << 20  # bytes; larger requests are not looked up: while they wait, they are in memory
_CACHED = (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS, Endpoint.RESPONSES, Endpoint.MESSAGES)


@dataclass(frozen=True, slots=True)
class Semantic:
    """Requests that mean the same are the same: a `model` for embeddings says how near they are, 1 is equal.

    `address`: the URL of the API that has the model, up to `/v1`; None: the gateway itself.
    """

    model: str
    threshold: float = 0.95
    address: str | None = None
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not 0.5 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold:g}: 0.5 to 1 is expected")


@dataclass(frozen=True, slots=True)
class Settings:
    """`ttl_s`: seconds that an answer holds. `scope`: who shares it. `store`: where it is. `semantic`: requests that
    are alike are the same. `deterministic`: only requests with temperature 0 or a seed, and embeddings. `tools`: also
    requests that offer tools. `headers`: clients may bypass or refresh. `most_bytes`: of one answer.
    """

    ttl_s: int
    scope: Literal["key", "team", "shared"] = "key"
    store: Literal["memory", "redis"] = "memory"
    semantic: Semantic | None = None
    deterministic: bool = False
    tools: bool = True
    headers: bool = True
    most_bytes: int = 1024 * 1024
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not 1 <= self.ttl_s <= 366 * 86_400:
            raise ValueError(f"ttl_s is {self.ttl_s}: 1 to {366 * 86_400} is expected")
        if not 1 <= self.most_bytes <= 16 * 1024 * 1024:
            raise ValueError(f"most_bytes is {self.most_bytes}: 1 to {16 * 1024 * 1024} is expected")


class Lookup(NamedTuple):
    """What to do about a request. `most_age_s`: an older entry is none. `only`: if there is none, refuse."""

    key: bytes
    read: bool
    write: bool
    most_age_s: int
    only: bool = False

    @property
    def word(self) -> str:
        """For the header of an answer that the provider gives."""
        return "miss" if self.read else "refresh" if self.write else "bypass"


class Near(NamedTuple):
    """What is like a request: a text of the same group. `client`: the identity that pays for the embedding."""

    compared: Compared
    how: Semantic
    client: str


@dataclass(frozen=True, slots=True)
class Find:
    """Asks the store for an entry, to be answered by a `Found`.

    `lead`: whoever finds nothing asks the provider, and others that look for the same wait for what it stores.
    Without `read` nothing is looked for, but something may be stored.
    """

    store: Literal["memory", "redis"]
    key: bytes
    read: bool
    lead: bool
    near: Near | None

    @property
    def patience_s(self) -> float | None:
        """One question in an exchange may have it, and an embedding may take longer than a message."""
        return WAIT_S if self.near else None


class Ticket(ABC):
    """The right to store the answer to a request that was looked for."""

    @abstractmethod
    def keep(self, stored: bytes, ttl_s: int) -> None:
        """Stores it, once; nothing of it waits, or fails."""


@dataclass(frozen=True, slots=True)
class Await:
    """Asks for what another request that is the same is about to store; the answer is a `Found`."""

    ticket: Ticket
    patience_s: float | None


class Found(NamedTuple):
    """What the store says. `waits`: another request asks the provider already: ask again, with `Await`.

    `similarity`: of a request that is not equal.
    """

    stored: bytes | None = None
    ticket: Ticket | None = None
    waits: bool = False
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored answer, always as one JSON document: a stream is told again from it, with usage or without.

    `born_s`: seconds since the epoch. `streamed`: it was a stream.
    """

    endpoint: Endpoint
    body: bytes
    born_s: int
    streamed: bool = False

    def dump(self) -> bytes:
        about = {"v": canonical.VERSION, "endpoint": self.endpoint, "born_s": self.born_s, "streamed": self.streamed}
        return orjson.dumps(about) + b"\n" + self.body

    @classmethod
    def load(cls, stored: bytes) -> "Entry | None":
        """None for what this version did not write: a miss."""
        head, _, body = stored.partition(b"\n")
        try:
            about = orjson.loads(head)
            if about["v"] != canonical.VERSION or not isinstance(about["born_s"], int):
                return None
            return cls(Endpoint(about["endpoint"]), body, about["born_s"], about["streamed"] is True)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return None


class _Asked(NamedTuple):
    """The state while the store is asked."""

    lookup: Lookup
    patient: bool  # Envoy was told already to wait longer


class Cache(Plain):
    """The decisions of one rule."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        headers = frozenset(("cache-control", HEADER)) if settings.headers else frozenset[str]()
        self.needs = Needs(Access.CHANGE, Access.READ, Access.READ, headers | frozenset(canonical.VARY))

    def request(self, request: Request) -> Outcome:
        lookup = self.lookup(request)
        if lookup is None:
            return NOTHING
        if not (lookup.read or lookup.write):
            return _passed(lookup, None)
        semantic = self._settings.semantic
        near = None
        if semantic is not None and lookup.read:
            scope = f"{self._scope(request)}:{semantic.model}:{semantic.address or ''}"
            alike = compared(request, scope)
            near = Near(alike, semantic, request.client) if alike else None
        find = Find(self._settings.store, lookup.key, lookup.read, lookup.write, near)
        return Outcome(question=find, state=_Asked(lookup, near is not None))

    def told(self, request: Request, state: object, answer: object) -> Outcome:
        if not isinstance(state, _Asked):
            return NOTHING
        lookup, patient = state
        found = answer if isinstance(answer, Found) else Found()
        if found.waits and found.ticket is not None:
            wait = Await(found.ticket, None if patient else WAIT_S)
            return Outcome(question=wait, state=_Asked(lookup, patient=True))
        reply = self.hit(lookup, found.stored, request, _now(request))
        if isinstance(reply, Refusal):
            return Outcome(refusal=reply, metadata={"cache": "none"})
        if reply is None:
            away = {"cache_away": 1} if answer is None else {}
            return _passed(lookup, found.ticket if lookup.write else None, away)
        if found.similarity is None:
            return Outcome(reply=reply, metadata={"cache": "hit", "cache_hits": 1})
        told = {**reply.headers, SIMILARITY: f"{found.similarity:.4f}"}
        reply = Reply(reply.status, reply.content_type, reply.body, told, cached=True)
        return Outcome(reply=reply, metadata={"cache": "similar", "cache_hits": 1, "cache_similar": 1})

    def answer(self, request: Request, state: object, body: bytes) -> Outcome:
        if isinstance(state, Ticket):
            self._keep(state, self.entry(request, False, body, _now(request)))
        return NOTHING

    def stream(self, request: Request, state: object) -> "Recorder | None":
        if not isinstance(state, Ticket):
            return None

        def finished(recorded: bytes) -> None:
            self._keep(state, self.entry(request, True, recorded, _now(request)))

        # As a stream an answer is several times as long.
        return Recorder(request.endpoint, 8 * self._settings.most_bytes, finished)

    def lookup(self, request: Request) -> Lookup | None:
        """None: this request has nothing to do with the cache."""
        settings = self._settings
        if request.endpoint not in _CACHED or len(request.raw) > _MOST_REQUEST:
            return None
        if settings.deterministic and not canonical.is_deterministic(request.body, request.endpoint):
            return None
        if not settings.tools and (request.body.get("tools") or request.body.get("functions")):
            return None
        scope = self._scope(request)
        if scope is None:
            return None
        asked = _asked(request) if settings.headers else {}
        read = not asked.keys() & {"no-cache", "no-store"}
        ages = [age for name in ("max-age", "s-maxage") if (age := asked.get(name)) is not None]
        return Lookup(
            key=canonical.key(request, scope, request.model),
            read=read,
            write="no-store" not in asked and "only-if-cached" not in asked,
            most_age_s=min([settings.ttl_s, *ages]),
            only="only-if-cached" in asked,
        )

    def hit(self, lookup: Lookup, stored: bytes | None, request: Request, now_s: int) -> Reply | Refusal | None:
        """The answer out of the store; None: ask the provider."""
        found = Entry.load(stored) if stored is not None and lookup.read else None
        reply = self._reply(lookup, found, request, now_s) if found else None
        if reply is None and lookup.only:
            return Refusal(
                504, "not_cached", "There is no such answer in the cache, and no other was wanted.", type="api_error"
            )
        return reply

    def entry(self, request: Request, streamed: bool, body: bytes, now_s: int) -> Entry | None:
        """What to store of a provider's answer with status 200; None for what must not be stored."""
        whole = replay.to_answer(request.endpoint, body) if streamed else body
        if whole is None or len(whole) > self._settings.most_bytes:
            return None
        try:
            answer = orjson.loads(whole)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(answer, dict) or not is_final(request.endpoint, answer):
            return None
        return Entry(request.endpoint, whole, now_s, streamed)

    def _keep(self, ticket: Ticket, entry: Entry | None) -> None:
        if entry is not None:
            ticket.keep(entry.dump(), self._settings.ttl_s)

    def _scope(self, request: Request) -> str | None:
        """Without a key or a team there is nobody to share with."""
        scope = self._settings.scope
        if scope == "shared":
            return "shared"
        who = request.key if scope == "key" else request.team
        return f"{scope}:{who}" if who else None

    def _reply(self, lookup: Lookup, entry: Entry, request: Request, now_s: int) -> Reply | None:
        age = max(0, now_s - entry.born_s)
        if age >= lookup.most_age_s or entry.endpoint is not request.endpoint:
            return None
        body = _told(entry, request)
        if body is None:
            return None
        content_type = _SSE if request.streamed else _JSON
        return Reply(200, content_type, body, {HEADER: "hit", "age": str(age)}, cached=True)


class Recorder(EventStream):
    """Passes a stream on and keeps a copy, as long as that is small enough to be stored.

    `finished` gets it when the stream is at its end.
    """

    def __init__(self, endpoint: Endpoint, most_bytes: int, finished: Callable[[bytes], None]) -> None:
        super().__init__(endpoint)
        self._most = most_bytes
        self._copy: bytearray | None = bytearray()
        self._finished = finished

    def feed(self, data: bytes) -> bytes:
        if self._copy is not None:
            self._copy += data
            if len(self._copy) > self._most:
                self._copy = None
        return data

    def end(self) -> bytes:
        copy, self._copy = self._copy, None
        if copy is not None:
            self._finished(bytes(copy))
        return b""


def _passed(lookup: Lookup, ticket: Ticket | None, more: dict[str, Any] | None = None) -> Outcome:
    """The provider is asked."""
    metadata = {"cache": lookup.word, **(more or {})}
    return Outcome(answer_headers={HEADER: lookup.word}, metadata=metadata, state=ticket)


def _told(entry: Entry, request: Request) -> bytes | None:
    """An entry as the request wants it; None where it cannot be told as the provider would have."""
    states_usage = b'"usage"' in entry.body
    if request.streamed:
        options = request.body.get("stream_options")
        usage = isinstance(options, dict) and options.get("include_usage") is True
        if usage and not states_usage:
            return None
        return replay.to_stream(request.endpoint, entry.body, usage)
    # A stream may have been told without its usage; a document states it always.
    return entry.body if states_usage or not entry.streamed else None


def _now(request: Request) -> int:
    return int(request.now.timestamp())


def _asked(request: Request) -> dict[str, int | None]:
    """Directives of `cache-control` (RFC 9111), and our own header: `bypass`, `refresh`."""
    own = request.headers.get(HEADER, "").strip().lower()
    text = request.headers.get("cache-control", "").lower()[:1000]
    asked = {name: int(seconds) if seconds else None for name, seconds in _DIRECTIVE.findall(text)}
    return asked | {"bypass": {"no-store": None}, "refresh": {"no-cache": None}}.get(own, {})
