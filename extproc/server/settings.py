"""The settings document: the rules of one policy. Routes send requests through chains of them.

The control plane writes it before the snapshot that uses it, into a file named by its version. Requests name version
and chain, so that none sees half of one policy and half of the next.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal

import orjson
from pydantic import ConfigDict

from extproc.stages import settings as documents
from extproc.stages.book import Counting
from extproc.stages.choice import Modality
from extproc.stages.registry import KINDS
from extproc.stages.settings import STRICT

FORMAT: Literal[1] = 1
_ROUTE, _STREAMED = "rules/", "/stream"
# The chain that answers how many tokens a request has, beside those of rules.
COUNTS = "counts"


@dataclass(frozen=True, slots=True)
class When:
    """What the service decides. `headers`: name -> values, exact or beginnings with `*`; all must match.

    `keys`, `teams`: one of them; Envoy decides that too where it can. `modality`: the request holds one of these.
    """

    keys: tuple[str, ...] = ()
    teams: tuple[str, ...] = ()
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    modality: tuple[Modality, ...] = ()
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A stage: its kind, and its settings as JSON."""

    kind: str
    settings: Any
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}: one of {', '.join(KINDS)} is expected")


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """A rule: its stages in order. `closed`: a request that it cannot be applied to fails."""

    name: str
    stages: tuple[StageSpec, ...]
    when: When = When()
    closed: bool = False
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True)
class Settings:
    """`names`: what providers call models that rules may choose, where that differs.

    `counting`: how tokens are counted. `hooks`: the hash of the file that says where webhooks are.

    Nothing in it depends on who may send requests, so that a key which comes or goes makes no new version.
    """

    format: Literal[1]
    rules: tuple[RuleSpec, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    counting: Counting = field(default_factory=Counting)
    hooks: str = ""
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


def dump(settings: Settings) -> bytes:
    """The document; the same settings give the same bytes."""
    return orjson.dumps(orjson.loads(documents.dump(settings)), option=orjson.OPT_SORT_KEYS)


def parse(document: bytes, origin: str) -> Settings:
    """The inverse. Raises SettingsError."""
    return documents.parse(Settings, document, origin)


def version(document: bytes) -> str:
    """What requests call the document by: a hash of its text."""
    return hashlib.blake2b(document, digest_size=8).hexdigest()


def file_name(of_version: str) -> str:
    return f"{of_version}.json"


def tokenizer_file(digest: str) -> str:
    """The name of the file beside the documents that has a tokenizer's text, by the text's hash."""
    return f"{digest}.tokenizer"


def hooks_file(digest: str) -> str:
    """The name of the file beside the documents that says where webhooks are, with their secrets."""
    return f"{digest}.hooks"


def chain_name(places: Iterable[int]) -> str:
    """The name of the chain of these rules, by their places."""
    return "-".join(map(str, places))


def places(chain: str) -> tuple[int, ...]:
    """The inverse. Raises ValueError for what is no name of a chain."""
    found = tuple(int(place) for place in chain.split("-") if place.isdecimal())
    if not found or chain_name(found) != chain:
        raise ValueError(f"{chain[:100]!r} is not the name of a chain")
    return found


def route_name(of_version: str, chain: str, *, streamed: bool) -> str:
    """The name of a route whose requests go through a chain; Envoy tells the service the names of routes.

    `streamed`: the answers of its requests come to the service as streams.
    """
    return f"{_ROUTE}{of_version}/{chain}{_STREAMED if streamed else ''}"


@lru_cache(maxsize=1024)
def place(route: str) -> tuple[str, str, bool]:
    """The inverse: version, chain, and whether it is streamed. Raises ValueError for another route."""
    parts = route.removeprefix(_ROUTE).removesuffix(_STREAMED).split("/")
    if not route.startswith(_ROUTE) or len(parts) != 2 or not parts[0].isalnum():
        raise ValueError(f"{route[:100]!r} is not the name of a route with rules")
    return parts[0], parts[1], route.endswith(_STREAMED)
