"""Where events go. The control plane hands endpoints over in the environment, since their secrets must not be seen."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import get_args

import httpx
import orjson
from pydantic import TypeAdapter

from extproc.usage.webhooks.body import Kind, signing_key

VARIABLE = "HEADGATE_WEBHOOKS"
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where events go. `name` stands for it in logs and in the outbox: its URL may hold a secret too.

    Raises ValueError, without the secret, unless the URL is http(s) and the secret is `whsec_` and base64 of 24 to 64
    bytes.
    """

    name: str
    url: str = field(repr=False)
    secret: str = field(repr=False)
    events: tuple[Kind, ...] = KINDS

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL:
            raise ValueError(f"webhook {self.name!r}: not a URL") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"webhook {self.name!r}: expected an http:// or https:// URL with a host")
        signing_key(self.secret, self.name)


def dump(endpoints: Iterable[Endpoint]) -> str:
    """The value of VARIABLE; `load` is its inverse."""
    return orjson.dumps([asdict(endpoint) for endpoint in endpoints]).decode()


def load(text: str) -> tuple[Endpoint, ...]:
    """Raises ValueError, whose text may hold a secret."""
    return _ADAPTER.validate_json(text) if text else ()


_ADAPTER: TypeAdapter[tuple[Endpoint, ...]] = TypeAdapter(tuple[Endpoint, ...])
