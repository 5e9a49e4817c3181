"""The lines of Envoy's access log: what they hold, and what one says about its request.

Envoy writes the fields in the order of FIELDS, by the format commands below, then what the module in envoy/native left:
https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/observability/access_log/usage#command-operators
"""

import re
from dataclasses import dataclass
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


# Of both of these, many requests have the same: those share one, so that what follows from it is found out once. They
# are told apart by identity, as the quickest key there is: two that say the same may be two.
@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """Who asked for what, and what answered; "" where there is nothing to tell."""

    client: str  # the identity that authentication found
    model: str  # "" when the request did not get as far as being read
    instead: str  # the model that was served in its place, since a budget was spent; or ""
    answered: str  # the model as the provider named it


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """How a request went; "" where Envoy knows nothing."""

    cluster: str
    attempts: int
    status: int
    details: str
    surface: str
    content_type: str
    complete: bool

    @property
    def streamed(self) -> bool:
        return self.content_type.startswith("text/event-stream")


class Entry(NamedTuple):
    """One request as Envoy saw it. Times in microseconds; "" and None where Envoy knows nothing."""

    id: str
    at_us: int
    names: Names
    course: Course
    first_us: int | None
    took_us: int
    bytes_in: int
    bytes_out: int
    address: str
    usage: tuple[str, ...]  # JSON texts


# What a field may be; Envoy writes "-" for what it does not know. A clock that went back makes a time negative.
_TEXT, _COUNT, _TIME = rf"[^{SEPARATOR}]*+", r"(?:-|\d{1,18})", r"(?:-|-?\d{1,18})"
_NUMBERS = {"at": r"\d{1,18}", "first": _TIME, "took": _TIME}
_NUMBERS |= dict.fromkeys(("attempts", "status", "ms", "in", "out"), _COUNT)
_COURSE = ("cluster", "attempts", "status", "flags", "details", "path", "type")  # which stand together


def _pattern() -> str:
    """Groups: the fields one by one, but the course as one; then the names as one, and usage; or what is neither."""
    course = SEPARATOR.join(_NUMBERS.get(name, _TEXT) for name in _COURSE)
    fields = [(name, _NUMBERS.get(name, _TEXT)) for name, _ in FIELDS if name not in _COURSE[1:]]
    steps = SEPARATOR.join(f"({course if name == 'cluster' else field})" for name, field in fields)
    names = SEPARATOR.join([_TEXT] * 3 + [_TEXT.removesuffix("+")])  # the last may have the end behind it
    return f"{BEGIN}{steps}{SEPARATOR}(?:({names})(?:{SEPARATOR}(.*))?|(.*)){END}\n?"


_LINE = re.compile(_pattern(), re.ASCII | re.DOTALL)


def parse(line: bytes) -> Entry:
    """Raises EntryError."""
    found = _LINE.fullmatch(line.decode("utf-8", "replace"))
    if found is None:
        raise EntryError(f"not an entry of the access log: {len(line)} bytes")
    id_, at, course, first, took, ms, bytes_in, bytes_out, address, names, usage, unread = found.groups()
    if names is None and unread != "-":
        raise EntryError("what was left for an entry of the access log has fewer parts than 4")
    # By place, and past its constructor, which takes twice as long: every request makes one.
    return tuple.__new__(
        Entry,
        (
            "" if id_ == "-" else id_,
            int(at),
            _UNREAD if names is None else _names(names),
            _course(course),
            None if first == "-" else max(0, int(first)),
            (0 if took == "-" else max(0, int(took))) or (0 if ms == "-" else int(ms) * 1000),
            0 if bytes_in == "-" else int(bytes_in),
            0 if bytes_out == "-" else int(bytes_out),
            "" if address == "-" else address,
            () if usage is None else tuple(usage.split(SEPARATOR)),
        ),
    )


_UNREAD = Names("", "", "", "")  # a request that did not get as far as being read


@lru_cache(maxsize=16_384)
def _names(text: str) -> Names:
    return Names(*text.split(SEPARATOR))


@lru_cache(maxsize=4096)
def _course(text: str) -> Course:
    cluster, attempts, status, flags, details, path, content_type = text.split(SEPARATOR)
    code = _count(status)
    return Course(
        cluster="" if cluster == "-" else cluster,
        attempts=_count(attempts),
        status=code,
        details="" if details == "-" else details,
        surface=surface("" if path == "-" else path),
        content_type="" if content_type == "-" else content_type,
        complete=code != 0 and (flags == "-" or _BROKEN.isdisjoint(flags.split(","))),
    )


def surface(path: str) -> str:
    """The API of a path, whatever a provider's base path is: its last steps, such as "chat/completions"."""
    steps = path.partition("?")[0].strip("/").split("/")
    return "/".join(steps[-2:]) if len(steps) > 1 and steps[-2] in ("chat", "images", "audio") else steps[-1]


def _count(field: str) -> int:
    return 0 if field == "-" else int(field)
