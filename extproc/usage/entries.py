"""The lines of Envoy's access log: what they hold, and what one says about its request.

Envoy writes a JSON object per line, by the format commands below:
https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/observability/access_log/usage#command-operators
"""

from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

# Short names, since every request writes all of them. `request` and `answer` are left by the scripts in envoy/lua.
FORMAT = MappingProxyType(
    {
        "id": "%REQ(x-request-id)%",
        "at": "%START_TIME(%s%6f)%",
        "request": "%DYNAMIC_METADATA(headgate:request)%",
        "answer": "%DYNAMIC_METADATA(headgate:answer)%",
        "cluster": "%UPSTREAM_CLUSTER_RAW%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "path": "%REQ(:PATH)%",
        "type": "%RESP(content-type)%",
        "first": "%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:us)%",
        "took": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
        "ms": "%DURATION%",
        "in": "%BYTES_RECEIVED%",
        "out": "%BYTES_SENT%",
        "from": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    }
)

# Envoy's words for a client that left, and for a provider that broke off: the answer did not go to its end.
_BROKEN = frozenset({"DC", "DR", "UR", "UC", "UT", "SI", "LR", "DT", "UPE", "OM", "UMSDR"})


class EntryError(ValueError):
    """A line of the log is not an entry; says why."""


class Entry(NamedTuple):
    """One request as Envoy saw it. Times in microseconds; "" and None where Envoy knows nothing."""

    id: str
    at_us: int
    client: str  # the identity that authentication found
    model: str  # "" when the request did not get as far as being read
    instead: str  # the model that was served in its place, since a budget was spent; or ""
    cluster: str
    attempts: int
    status: int
    details: str
    surface: str
    content_type: str
    first_us: int | None
    took_us: int
    bytes_in: int
    bytes_out: int
    address: str
    answered_model: str
    usage: tuple[str, ...]  # JSON texts
    complete: bool

    @property
    def streamed(self) -> bool:
        return self.content_type.startswith("text/event-stream")


def parse(line: bytes) -> Entry:
    """Raises EntryError."""
    try:
        found = orjson.loads(line)
        client, model, instead = [*_text(found, "request")[1:].split("\n"), "", ""][:3]
        answered, *usage = _text(found, "answer").split("\n")
        status, flags = _count(found, "status"), _text(found, "flags")
        return Entry(
            id=_text(found, "id"),
            at_us=_number(found["at"]),
            client=client,
            model=model,
            instead=instead,
            cluster=_text(found, "cluster"),
            attempts=_count(found, "attempts"),
            status=status,
            details=_text(found, "details"),
            surface=surface(_text(found, "path")),
            content_type=_text(found, "type"),
            first_us=_micros(found["first"]),
            took_us=_micros(found["took"]) or _count(found, "ms") * 1000,
            bytes_in=_count(found, "in"),
            bytes_out=_count(found, "out"),
            address=_text(found, "from"),
            answered_model=answered,
            usage=tuple(usage),
            complete=not _broken(flags, status),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:  # also orjson's
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise EntryError(f"not an entry of the access log: {reason[:120]}") from error


def surface(path: str) -> str:
    """The API of a path, whatever a provider's base path is: its last steps, such as "chat/completions"."""
    steps = path.partition("?")[0].strip("/").split("/")
    return "/".join(steps[-2:]) if len(steps) > 1 and steps[-2] in ("chat", "images", "audio") else steps[-1]


def _text(found: dict[str, Any], name: str) -> str:
    value = found[name]
    if type(value) is str:
        return value
    if value is None:
        return ""
    raise TypeError(f"{name} is no text")


def _count(found: dict[str, Any], name: str) -> int:
    value = found[name]
    if value is None:
        return 0
    if type(value) is int and value >= 0:
        return value
    raise TypeError(f"{name} is no whole number above zero")


def _micros(value: object) -> int | None:
    """A duration. Envoy writes "-" where one never began or never ended; a clock that went back makes it zero."""
    return max(0, _number(value)) if value not in (None, "", "-") else None


def _number(value: object) -> int:
    if type(value) is int or type(value) is str:
        return int(value)
    raise TypeError("a time is no number")


def _broken(flags: str, status: int) -> bool:
    return status == 0 or not _BROKEN.isdisjoint(flags.split(","))
