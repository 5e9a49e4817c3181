"""The lines of Envoy's access log: what they hold, and what one says about its request.

Envoy writes the fields in the order of FIELDS, by the format commands below, then what the module in envoy/native left:
https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/observability/access_log/usage#command-operators
"""

import re
from functools import lru_cache
from typing import NamedTuple

# Bytes that no header, path, name or usage can hold. A killed Envoy leaves part of a line, and the next one writes its
# first line behind it.
BEGIN, END, SEPARATOR = "\x1e", "\x1d", "\x1f"

FIELDS = (
    ("id", "%REQ(x-request-id)%"),
    ("at", "%START_TIME(%s%6f)%"),
    ("cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("status", "%RESPONSE_CODE%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("details", "%RESPONSE_CODE_DETAILS%"),
    ("path", "%PATH(NQ:ORIG_OR_PATH)%"),
    ("type", "%RESP(content-type)%"),
    ("first", "%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:us)%"),
    ("took", "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%"),
    ("ms", "%DURATION%"),
    ("in", "%BYTES_RECEIVED%"),
    ("out", "%BYTES_SENT%"),
    ("from", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
)
# The client, the model it asked for, the one served in its place, the one that answered, and what it said of usage.
ENTRY = "%DYNAMIC_METADATA(headgate:entry)%"
FORMAT = BEGIN + SEPARATOR.join([command for _, command in FIELDS] + [ENTRY]) + END + "\n"

# The details of an answer that came out of the cache: no provider was asked.
CACHE_HIT = "headgate_cache_hit"
CACHE_HITS = "cache_hits"  # 1 for such an answer, where limits settle what it used
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


# What a field may be; Envoy writes "-" for what it does not know. A clock that went back makes a time negative.
_TEXT, _COUNT, _TIME = rf"([^{SEPARATOR}]*)", r"(-|\d{1,18})", r"(-|-?\d{1,18})"
_NUMBERS = {"at": r"(\d{1,18})", "first": _TIME, "took": _TIME}
_NUMBERS |= dict.fromkeys(("attempts", "status", "ms", "in", "out"), _COUNT)
_LINE = re.compile(
    BEGIN + SEPARATOR.join([_NUMBERS.get(name, _TEXT) for name, _ in FIELDS] + ["(.*)"]) + END, re.ASCII | re.DOTALL
)


def parse(line: bytes) -> Entry:
    """Raises EntryError."""
    found = _LINE.fullmatch(line.decode("utf-8", "replace").removesuffix("\n"))
    if found is None:
        raise EntryError(f"not an entry of the access log: {len(line)} bytes")
    # fmt: off
    (
        id_, at, cluster, attempts, status, flags, details, path, content_type, first, took, ms, bytes_in, bytes_out,
        address, left,
    ) = found.groups()
    # fmt: on
    try:
        client, model, instead, answered, *usage = left.split(SEPARATOR) if left != "-" else _UNREAD
    except ValueError as error:
        raise EntryError(f"what was left for an entry of the access log has fewer parts than {len(_UNREAD)}") from error
    code = _count(status)
    # By place: one is made for every request.
    return Entry(
        "" if id_ == "-" else id_,
        int(at),
        client,
        model,
        instead,
        "" if cluster == "-" else cluster,
        _count(attempts),
        code,
        "" if details == "-" else details,
        surface("" if path == "-" else path),
        "" if content_type == "-" else content_type,
        _micros(first),
        _micros(took) or _count(ms) * 1000,
        _count(bytes_in),
        _count(bytes_out),
        "" if address == "-" else address,
        answered,
        tuple(usage),
        complete=code != 0 and (flags == "-" or _BROKEN.isdisjoint(flags.split(","))),
    )


_UNREAD = ("", "", "", "")  # a request that did not get as far as being read


@lru_cache(maxsize=1024)
def surface(path: str) -> str:
    """The API of a path, whatever a provider's base path is: its last steps, such as "chat/completions"."""
    steps = path.partition("?")[0].strip("/").split("/")
    return "/".join(steps[-2:]) if len(steps) > 1 and steps[-2] in ("chat", "images", "audio") else steps[-1]


def _count(field: str) -> int:
    return 0 if field == "-" else int(field)


def _micros(field: str) -> int | None:
    """A duration; None for one that never began or never ended."""
    return None if field == "-" else max(0, int(field))
