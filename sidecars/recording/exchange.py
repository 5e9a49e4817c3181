"""One exchange, a request and its answer, as a line of JSON. `docs/replay.md` has the format."""

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

VERSION = 1


class ExchangeError(ValueError):
    """A line that is no recorded exchange. Its text says why, and quotes nothing of it."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Body(_Strict):
    """Bytes: as `text` where they are UTF-8, else as `base64`. `withheld` says why there is neither."""

    text: str | None = None
    base64: str | None = None
    withheld: str | None = None

    @staticmethod
    def of(data: bytes) -> "Body":
        try:
            return Body(text=data.decode())
        except UnicodeDecodeError:
            return Body(base64=base64.b64encode(data).decode())

    def content(self) -> bytes:
        """Raises ExchangeError."""
        if self.text is not None:
            return self.text.encode()
        try:
            return base64.b64decode(self.base64 or "", validate=True)
        except ValueError:
            raise ExchangeError("the body is not base64") from None


def _time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("expected a time with its zone")
    return text


class Request(_Strict):
    method: str
    path: Annotated[str, Field(pattern="^/")]  # with the query
    headers: Mapping[str, str]
    body: Body


class Answer(_Strict):
    """`body`, or for a stream its `events`: milliseconds since the request was sent, and the event with its line ends.

    `ended`: `complete`; `cut` by upstream; `left` by the client.
    """

    status: Annotated[int, Field(ge=100, le=599)]
    headers: Mapping[str, str]
    body: Body | None = None
    events: tuple[tuple[Annotated[float, Field(ge=0)], str], ...] | None = None
    ended: Literal["complete", "cut", "left"] = "complete"


class Times(_Strict):
    """Milliseconds since the request was sent: the answer's headers, its first event or byte, its end."""

    headers: Annotated[float, Field(ge=0)]
    first: Annotated[float, Field(ge=0)]
    total: Annotated[float, Field(ge=0)]


class Exchange(_Strict):
    """`id` is the answer's `x-request-id`; `at` when the request came, in UTC; `model` as the client asked for it;
    `provider` the host that answered."""

    version: Literal[1] = 1
    id: str
    at: Annotated[str, AfterValidator(_time)]
    model: str
    provider: str
    request: Request
    answer: Answer
    ms: Times
    usage: Mapping[str, Any] | None = None

    def line(self) -> bytes:
        return orjson.dumps(self.model_dump(mode="json", exclude_none=True)) + b"\n"


def parse(line: str | bytes) -> Exchange:
    """Raises ExchangeError."""
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ExchangeError(f"not JSON: {error.msg}") from None
    version = data.get("version") if isinstance(data, dict) else None
    if version != VERSION:
        raise ExchangeError(f"not a recorded exchange of version {VERSION}")
    try:
        return Exchange.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ExchangeError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
