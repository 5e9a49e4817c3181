"""Embeddings of texts, from an API like OpenAI's: a model of the gateway's own, or one at an address."""

from typing import NamedTuple

import httpx
import orjson

from extproc.cache.nearest import Vector, unit

TIMEOUT_S = 2.0
_MOST_ANSWER = 4 << 20
# The gateway's inner listener takes the client's identity at its word, so that the embedding is paid by whom it is for.
_CLIENT = "x-headgate-client"


class Wanted(NamedTuple):
    """A text. `address`: the API's URL, up to `/v1`; None: the gateway. `client`: whose request it is for."""

    text: str
    model: str
    address: str | None
    client: str


class EmbeddingError(Exception):
    """There is none; says why, without a word of the text."""


class Embeddings:
    """`socket`: where the gateway's inner listener is. Close it in the end."""

    def __init__(self, socket: str) -> None:
        self._inside = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=socket, verify=False),
            base_url="http://gateway/v1",
            timeout=TIMEOUT_S,
        )
        self._outside = httpx.AsyncClient(timeout=TIMEOUT_S)

    async def of(self, wanted: Wanted) -> Vector:
        """Raises EmbeddingError."""
        body = orjson.dumps({"model": wanted.model, "input": wanted.text})
        headers = {"content-type": "application/json"}
        try:
            if wanted.address is None:
                headers[_CLIENT] = wanted.client
                answer = await self._inside.post("/embeddings", content=body, headers=headers)
            else:
                answer = await self._outside.post(f"{wanted.address}/embeddings", content=body, headers=headers)
        except httpx.HTTPError as error:
            raise EmbeddingError(f"{wanted.model}: {type(error).__name__}") from None
        if answer.status_code != 200 or len(answer.content) > _MOST_ANSWER:
            raise EmbeddingError(f"{wanted.model}: status {answer.status_code}, {len(answer.content)} bytes")
        try:
            return unit(orjson.loads(answer.content)["data"][0]["embedding"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise EmbeddingError(f"{wanted.model}: no embedding in the answer ({type(error).__name__})") from None

    async def close(self) -> None:
        await self._inside.aclose()
        await self._outside.aclose()
