"""The pure half of the response cache: what is looked up, what a hit says, what may be stored. Stores are elsewhere.

{"ttl_s": 3600, "scope": "team", "deterministic": true}
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import orjson
from pydantic import ConfigDict

from extproc.stages import canonical, replay
from extproc.stages.protocol import Access, Endpoint, Needs, Refusal, Reply, Request
from extproc.stages.settings import STRICT
from extproc.stages.sse import EventStream

HEADER = "x-headgate-cache"
_DIRECTIVE = re.compile(r"([a-z-]+)(?:\s*=\s*\"?(\d{1,10})\"?)?")
_JSON, _SSE = "application/json", "text/event-stream"
_CACHED = (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS, Endpoint.RESPONSES, Endpoint.MESSAGES)


@dataclass(frozen=True, slots=True)
class Settings:
    """`ttl_s`: seconds that an answer holds. `scope`: who shares it. `deterministic`: only requests with temperature 0
    or a seed, and embeddings. `headers`: clients may bypass or refresh. `most_bytes`: of one answer.
    """

    ttl_s: int
    scope: Literal["key", "team", "shared"] = "key"
    deterministic: bool = False
    headers: bool = True
    most_bytes: int = 1024 * 1024
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not 1 <= self.ttl_s <= 366 * 86_400:
            raise ValueError(f"ttl_s is {self.ttl_s}: 1 to {366 * 86_400} is expected")
        if not 1 <= self.most_bytes <= 64 * 1024 * 1024:
            raise ValueError(f"most_bytes is {self.most_bytes}: 1 to {64 * 1024 * 1024} is expected")


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


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored answer, always as one JSON document: a stream is told again from it, with usage or without.

    `born_s`: seconds since the epoch.
    """

    endpoint: Endpoint
    body: bytes
    born_s: int

    def dump(self) -> bytes:
        about = {"v": canonical.VERSION, "endpoint": self.endpoint, "born_s": self.born_s}
        return orjson.dumps(about) + b"\n" + self.body

    @classmethod
    def load(cls, stored: bytes) -> "Entry | None":
        """None for what this version did not write: a miss."""
        head, _, body = stored.partition(b"\n")
        try:
            about = orjson.loads(head)
            if about["v"] != canonical.VERSION or not isinstance(about["born_s"], int):
                return None
            return cls(Endpoint(about["endpoint"]), body, about["born_s"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return None


class Cache:
    """The decisions of one rule."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        headers = frozenset(("cache-control", HEADER)) if settings.headers else frozenset[str]()
        self.needs = Needs(Access.CHANGE, Access.READ, Access.READ, headers)

    def lookup(self, request: Request) -> Lookup | None:
        """None: this request has nothing to do with the cache."""
        settings = self._settings
        if request.endpoint not in _CACHED:
            return None
        if settings.deterministic and not canonical.is_deterministic(request.body, request.endpoint):
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
            write="no-store" not in asked,
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
        if not isinstance(answer, dict) or answer.get("error") is not None or answer.get("type") == "error":
            return None
        return Entry(request.endpoint, whole, now_s)

    def recorder(self, request: Request) -> "Recorder":
        """For a streamed answer; as a stream it is several times as long."""
        return Recorder(request.endpoint, 8 * self._settings.most_bytes)

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
        body: bytes | None = entry.body
        if request.streamed:
            options = request.body.get("stream_options")
            usage = isinstance(options, dict) and options.get("include_usage") is True
            body = replay.to_stream(request.endpoint, entry.body, usage)
        if body is None:
            return None
        return Reply(200, _SSE if request.streamed else _JSON, body, {HEADER: "hit", "age": str(age)})


class Recorder(EventStream):
    """Passes a stream on and keeps a copy, as long as that is small enough to be stored."""

    def __init__(self, endpoint: Endpoint, most_bytes: int) -> None:
        super().__init__(endpoint)
        self._most = most_bytes
        self._copy: bytearray | None = bytearray()

    def feed(self, data: bytes) -> bytes:
        if self._copy is not None:
            self._copy += data
            if len(self._copy) > self._most:
                self._copy = None
        return data

    def end(self) -> bytes:
        return b""

    @property
    def recorded(self) -> bytes | None:
        """The whole stream; None if it was too long."""
        return None if self._copy is None else bytes(self._copy)


def _asked(request: Request) -> dict[str, int | None]:
    """Directives of `cache-control` (RFC 9111), and our own header: `bypass`, `refresh`."""
    own = request.headers.get(HEADER, "").strip().lower()
    text = request.headers.get("cache-control", "").lower()[:1000]
    asked = {name: int(seconds) if seconds else None for name, seconds in _DIRECTIVE.findall(text)}
    return asked | {"bypass": {"no-store": None}, "refresh": {"no-cache": None}}.get(own, {})
