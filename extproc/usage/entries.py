"""The lines of Envoy's access log: what they hold, and what one says about its request.

Envoy writes the fields in the order of FIELDS, by the format commands below, then what the module in envoy/native left:
https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/observability/access_log/usage#command-operators
"""

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
    ("path", "%PATH(NQ)%"),
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
_KNOWN = len(FIELDS) + 1  # and the client; Envoy writes "-" for what it does not know
FORMAT = BEGIN + SEPARATOR.join([command for _, command in FIELDS] + [ENTRY]) + END + "\n"

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
    text = line.decode("utf-8", "replace").removesuffix("\n")
    if text[:1] != BEGIN or text[-1:] != END:
        raise EntryError(f"not an entry of the access log: a line of {len(line)} bytes that is not whole")
    fields = text[1:-1].split(SEPARATOR)
    known = ["" if field == "-" else field for field in fields[:_KNOWN]]
    try:
        # fmt: off
        (
            id_, at, cluster, attempts, status, flags, details, path, content_type, first, took, ms, bytes_in,
            bytes_out, address, client,
        ) = known
        # fmt: on
        model, instead, answered, *usage = fields[_KNOWN:] or ("", "", "")
        code = _count(status)
        return Entry(
            id=id_,
            at_us=int(at),
            client=client,
            model=model,
            instead=instead,
            cluster=cluster,
            attempts=_count(attempts),
            status=code,
            details=details,
            surface=surface(path),
            content_type=content_type,
            first_us=_micros(first),
            took_us=_micros(took) or _count(ms) * 1000,
            bytes_in=_count(bytes_in),
            bytes_out=_count(bytes_out),
            address=address,
            answered_model=answered,
            usage=tuple(usage),
            complete=not _broken(flags, code),
        )
    except ValueError as error:
        raise EntryError(f"not an entry of the access log: {str(error)[:120]}") from error


def surface(path: str) -> str:
    """The API of a path, whatever a provider's base path is: its last steps, such as "chat/completions"."""
    steps = path.partition("?")[0].strip("/").split("/")
    return "/".join(steps[-2:]) if len(steps) > 1 and steps[-2] in ("chat", "images", "audio") else steps[-1]


def _count(field: str) -> int:
    """Raises ValueError."""
    if not field:
        return 0
    if field.isdecimal() and field.isascii() and len(field) < 20:
        return int(field)
    raise ValueError(f"{field[:40]!r} is no whole number")


def _micros(field: str) -> int | None:
    """A duration; None for one that never began or never ended. A clock that went back makes it zero."""
    return max(0, int(field)) if field else None


def _broken(flags: str, status: int) -> bool:
    return status == 0 or not _BROKEN.isdisjoint(flags.split(","))
