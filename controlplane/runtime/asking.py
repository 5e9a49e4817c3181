"""One question to a provider, through Envoy: bounded in time and size, and told apart from its failures."""

import asyncio
from typing import Any

import httpx
import orjson

from controlplane.metadata import listings
from controlplane.plan.ir import Upstream
from controlplane.xds import names

MOST_BYTES = 8 << 20
_ANSWER_S = 15.0
_MOST_SHOWN = 64  # models of an Ollama that are looked at one by one
_HEADERS = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "headgate"}


class ListingError(Exception):
    """A provider did not tell its models. The text says why, in our words: theirs may hold anything.

    `final`: to ask again soon is of no use.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


def client(socket: str) -> httpx.AsyncClient:
    """For questions that Envoy passes on."""
    transport = httpx.AsyncHTTPTransport(uds=socket, verify=False)  # no certificates to load
    return httpx.AsyncClient(transport=transport, base_url="http://envoy", headers=_HEADERS, timeout=_ANSWER_S)


async def ask(http: httpx.AsyncClient, upstream: Upstream, wanted: tuple[str, ...]) -> Any:
    """The listing of a provider, as it tells it. Raises ListingError."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            found = await _fetched(http, upstream, "GET", listings.path(upstream.kind, upstream.base_path))
            if upstream.kind == "ollama":
                await _look_closer(http, upstream, found, wanted)
            return found
    except TimeoutError:
        raise ListingError(f"it did not answer within {_ANSWER_S:g} s") from None
    except httpx.HTTPError as error:
        raise ListingError(f"it cannot be asked ({type(error).__name__})") from None


async def _fetched(http: httpx.AsyncClient, upstream: Upstream, method: str, path: str, body: Any = None) -> Any:
    headers = {names.PROVIDER: upstream.name}
    async with http.stream(method, path, headers=headers, json=body) as answer:
        if answer.status_code != 200:
            none = answer.status_code in (404, 405, 501)
            raise ListingError(f"it answered {answer.status_code}", final=none)
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise ListingError("its answer is compressed, which was not asked for", final=True)
        content = bytearray()
        async for part in answer.aiter_raw():
            content += part
            if len(content) > MOST_BYTES:
                raise ListingError(f"its answer is larger than {MOST_BYTES >> 20} MiB", final=True)
    try:
        return await asyncio.to_thread(orjson.loads, content)
    except orjson.JSONDecodeError:
        raise ListingError("its answer is not JSON", final=True) from None


async def _look_closer(http: httpx.AsyncClient, upstream: Upstream, tags: Any, wanted: tuple[str, ...]) -> None:
    """Ollama tells most about a model only when it is asked for that one: adds to its entry what it then tells."""
    for name, entry in listings.entries_of(upstream.kind, tags, wanted)[:_MOST_SHOWN]:
        shown = await _fetched(http, upstream, "POST", f"{upstream.base_path}/show", {"model": name})
        entry["show"] = listings.of_show(shown)
