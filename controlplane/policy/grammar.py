"""The small languages inside a policy's strings: each one grammar, one parser, one error text. Pure.

Every parser raises ValueError with what was expected; the caller knows where.
"""

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import cache
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from extproc.usage.prices import MAX_PER_MILLION, MAX_PER_UNIT, MAX_TOKENS

_DURATION_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_RATE_PREFIXES = {"": 1, "k": 1000, "M": 1_000_000}
_RATE_PERIODS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

DURATION = r"^[0-9]+(ms|s|m|h|d)$"
REFRESH = rf"{DURATION}|^off$"
NETWORK = r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"
DAYS = r"^[0-9]+d$"
SIZE = r"^[0-9]+(B|KiB|MiB|GiB)?$"
DEVICE = r"^(cpu|cuda(:[0-9]{1,3})?)$"
RATE = r"^[0-9]+[kM]?/[smhd]$"
TOKENS = r"^[0-9]+[kM]?$"
DAY = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
MODEL = r"^[A-Za-z0-9][A-Za-z0-9._:/@+=-]{0,254}$"
MODEL_SOURCE = r"^(/|\.\.?/)[^\x00]+$|^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$"
PATTERN = r"^([A-Za-z0-9][A-Za-z0-9._:/@+=-]{0,253})?\*$|" + MODEL
HEADER = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
HOST = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?$"
ORIGIN = r"^(\*|[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?)$"
PATH = r"^[^\x00]+$"
ENV = r"^[A-Za-z_][A-Za-z0-9_]*$"
MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2}))?$"

_YEAR = 365 * 86_400_000


@dataclass(frozen=True, slots=True)
class Rate:
    """`amount` per `per_seconds`."""

    amount: int
    per_seconds: int


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or connect: a host name or IP address (no brackets), and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        if self.host == "localhost":
            return True
        return is_ip(self.host) and ipaddress.ip_address(self.host).is_loopback


@dataclass(frozen=True, slots=True)
class Url:
    """An http(s) URL; `path` has no trailing slash, so that the root is empty."""

    scheme: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return f"{self.scheme}://{host}{'' if self.port == default else f':{self.port}'}{self.path}"


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern of this module fits all of a text: `$` alone would let a line end pass."""
    return _compiled(pattern).match(text) is not None and not text.endswith("\n")


_compiled = cache(re.compile)


def amount(value: int | float | str) -> Decimal:
    """A number that is not negative, exactly as it was written (YAML gives floats, whose shortest form that is)."""
    expected = "a number such as 50 or 0.15, at most 1000000000 and with at most 12 decimals"
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(expected) from None
    exponent = found.as_tuple().exponent
    if not isinstance(exponent, int) or not 0 <= found <= 10**9 or exponent < -12:
        raise ValueError(expected)
    return found


def token_price(value: int | float | str) -> Decimal:
    """US dollars for 1,000,000 tokens."""
    return _price(value, MAX_PER_MILLION)


def request_price(value: int | float | str) -> Decimal:
    """US dollars for a request."""
    return _price(value, MAX_PER_UNIT)


def _price(value: int | float | str, most: int) -> Decimal:
    expected = f"a price in US dollars such as 0.15, at most {most} and with at most 12 decimals"
    try:
        found = amount(value)
    except ValueError:
        raise ValueError(expected) from None
    if found > most:
        raise ValueError(expected)
    return found


def fraction(value: int | float | str) -> Decimal:
    """A part of a whole."""
    try:
        found = amount(value)
    except ValueError:
        found = Decimal(0)
    if not 0 < found <= 1:
        raise ValueError("a part above 0 and up to 1, such as 0.8")
    return found


def timezone(text: str) -> str:
    if text not in available_timezones():
        raise ValueError("an IANA time zone such as Europe/Berlin")
    return text


def duration(text: str) -> int:
    """``250ms``, ``30s``, ``5m``, ``1h``, ``7d`` -> milliseconds."""
    found = re.fullmatch(r"([0-9]{1,12})(ms|s|m|h|d)", text)
    if not found:
        raise ValueError("a duration such as 250ms, 30s, 5m, 1h or 7d")
    milliseconds = int(found[1]) * _DURATION_UNITS[found[2]]
    if milliseconds > _YEAR:
        raise ValueError("a duration of at most 365d")
    return milliseconds


def days(text: str) -> int:
    """``30d`` -> 30."""
    found = re.fullmatch(r"([0-9]{1,5})d", text)
    if not found or not 1 <= int(found[1]) <= 36_500:
        raise ValueError("a number of whole days such as 30d, at most 36500d")
    return int(found[1])


def clock(text: str) -> int:
    """A duration that is not zero -> milliseconds."""
    milliseconds = duration(text)
    if not milliseconds:
        raise ValueError("a duration of at least 1ms")
    return milliseconds


def size(text: str | int) -> int:
    """``512KiB``, ``32MiB``, ``1GiB``, or a plain number of bytes -> bytes."""
    return _bytes(text, 1 << 32, "a size of at least 1 byte and less than 4GiB")


def memory(text: str | int) -> int:
    """As `size`, for what may take more than Envoy could count."""
    return _bytes(text, 1 << 50, "a size of at least 1 byte and less than 1048576GiB")


def _bytes(text: str | int, most: int, bounds: str) -> int:
    found = re.fullmatch(r"([0-9]{1,15})(B|KiB|MiB|GiB)?", str(text))
    if not found or isinstance(text, bool):
        raise ValueError("a size such as 512KiB, 32MiB or 1GiB")
    count = int(found[1]) * _SIZE_UNITS[found[2] or ""]
    if not 1 <= count < most:
        raise ValueError(bounds)
    return count


def device(text: str) -> str:
    """``cpu``, ``cuda`` (the first GPU) or ``cuda:1`` -> as the service names it, a GPU with its number."""
    if not matches(DEVICE, text):
        raise ValueError("cpu, cuda or cuda:N")
    kind, _, number = text.partition(":")
    return kind if kind == "cpu" else f"{kind}:{int(number or 0)}"


def tokens(text: str | int) -> int:
    """``128k``, ``1M``, or a plain number."""
    found = re.fullmatch(r"([0-9]{1,12})([kM]?)", str(text))
    count = int(found[1]) * _RATE_PREFIXES[found[2]] if found else 0
    if not 1 <= count <= MAX_TOKENS:
        raise ValueError(f"a number of tokens such as 128k, 1M or 8192, at most {MAX_TOKENS}")
    return count


def rate(text: str) -> Rate:
    """``600/m``, ``200k/m``, ``10/s``, ``1M/d``."""
    found = re.fullmatch(r"([0-9]{1,12})([kM]?)/([smhd])", text)
    if not found:
        raise ValueError("a rate such as 10/s, 600/m, 20k/h or 1M/d")
    amount = int(found[1]) * _RATE_PREFIXES[found[2]]
    if not 1 <= amount < 1 << 32:
        raise ValueError("a rate of 1 to 4294967295 requests")
    return Rate(amount, _RATE_PERIODS[found[3]])


def address(text: str) -> Address:
    """``127.0.0.1:8080``, ``[::1]:8080``, ``localhost:8080``."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", text)
    if not found or not 1 <= int(found[3]) <= 65535:
        raise ValueError("HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
    six, host = found[1], found[1] or found[2]
    if (six and (":" not in six or not is_ip(six))) or (re.fullmatch(r"[0-9.]+", host) and not is_ip(host)):
        raise ValueError("HOST:PORT with a valid IP address, such as 127.0.0.1:8080 or [::1]:8080")
    if not six and not matches(HOST, host):
        raise ValueError("HOST:PORT with a valid host name, such as localhost:8080")
    return Address(host, int(found[3]))


def address_name(text: str) -> Address:
    """``vllm.internal:8000``: an address that is looked up."""
    found = address(text)
    if is_ip(found.host):
        raise ValueError("NAME:PORT with a name to look up, such as vllm.internal:8000")
    return found


def endpoint(text: str) -> Address:
    """``10.0.0.7:8000``: an address that is connected to as it is."""
    expected = "an IP address and a port, such as 10.0.0.7:8000 or [fd00::7]:8000; names are for `discover: {dns: …}`"
    try:
        found = address(text)
    except ValueError:
        raise ValueError(expected) from None
    if not is_ip(found.host):
        raise ValueError(expected)
    return found


def url(text: str) -> Url:
    """``https://api.openai.com/v1``: a scheme, a host, perhaps a port and a path, nothing else."""
    expected = "a URL such as https://api.example.com/v1, without user, query or fragment"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(expected) from None
    scheme, host = parts.scheme, parts.hostname or ""
    named = is_ip(host) or (matches(HOST, host) and not re.fullmatch(r"[0-9.]+", host))
    plain = re.fullmatch(r"[!-~]+", text) and not any(mark in text for mark in "@?#") and "%" not in host
    if scheme not in ("http", "https") or not plain or not named or port == 0:
        raise ValueError(expected)
    return Url(scheme, host, port or (443 if scheme == "https" else 80), parts.path.rstrip("/"))


def webhook_url(text: str) -> str:
    """``https://ops.example.com/hook?id=7``: as `url`, and perhaps a query."""
    before, mark, query = text.partition("?")
    try:
        url(before)
        url(f"{before}/{query.replace('?', '')}")  # no other characters there either
    except ValueError:
        raise ValueError("a URL such as https://ops.example.com/hook, without user or fragment") from None
    return before + mark + query


def name(text: str) -> str:
    """The name of a provider, key or limit."""
    if not matches(NAME, text):
        raise ValueError(
            "a name of at most 63 letters, digits, dots, dashes and underscores, beginning with a letter or digit"
        )
    return text


def model(text: str) -> str:
    """The name of a model."""
    if not matches(MODEL, text):
        raise ValueError(
            "a model name of at most 255 letters, digits and . _ : / @ + = -, beginning with a letter or digit"
        )
    return text


def pattern(text: str) -> str:
    """A model name, or the beginning of one followed by a single ``*``."""
    if text == "*":
        return text
    try:
        model(text.removesuffix("*"))
    except ValueError:
        raise ValueError("a model name, or the beginning of one followed by a single *, such as llama-*") from None
    return text


def model_source(text: str) -> str:
    """A path that says so by its beginning, or a name as the hub of models has them."""
    if not matches(MODEL_SOURCE, text):
        raise ValueError("a path that begins with ./, ../ or /, or a name such as Qwen/Qwen3-0.6B")
    return text


def variable(text: str) -> str:
    """The name of an environment variable."""
    if not matches(ENV, text):
        raise ValueError("the name of an environment variable")
    return text


def host(text: str) -> str:
    """A DNS name."""
    if not matches(HOST, text):
        raise ValueError("a host name such as api.example.com")
    return text


def origin(text: str) -> str:
    """An origin as browsers send it, ``https://app.example.com``, or ``*``."""
    if not matches(ORIGIN, text):
        raise ValueError("an origin such as https://app.example.com (lower case, without a path), or *")
    return text


def network(text: str) -> str:
    """``10.0.0.0/8``, ``2001:db8::/32``, or one address -> the network with its length."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        near = ""
        with suppress(ValueError):
            near = f"; {ipaddress.ip_network(text, strict=False)} holds this one"
        raise ValueError(f"an IP address or network such as 10.0.0.7, 10.0.0.0/8 or 2001:db8::/32{near}") from None


def header(text: str) -> str:
    """The name of an HTTP header, in lower case (RFC 9110, section 5.1)."""
    if not matches(HEADER, text):
        raise ValueError("the name of an HTTP header")
    return text.lower()


def moment(text: str) -> datetime:
    """``2027-01-01`` (its first moment, UTC) or ``2027-01-01T12:00:00Z`` (RFC 3339) -> aware, in UTC."""
    expected = "a date such as 2027-01-01 (its first moment, UTC) or a time such as 2027-01-01T12:00:00Z"
    if not matches(MOMENT, text):
        raise ValueError(expected)
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(expected) from None


def day(text: str) -> str:
    """``2027-01-01``."""
    if not matches(DAY, text):
        raise ValueError("a date such as 2027-01-01")
    try:
        return datetime.strptime(text, "%Y-%m-%d").date().isoformat()
    except ValueError:
        raise ValueError("a date such as 2027-01-01") from None


def refresh(text: str) -> int:
    """``10m`` -> milliseconds, at least a second; ``off`` -> 0."""
    if text == "off":
        return 0
    try:
        found = duration(text)
    except ValueError:
        found = 0
    if found < 1000:
        raise ValueError("a duration of at least 1s, such as 10m, or off")
    return found


def earlier(text: str, now: datetime) -> datetime:
    """A time, or an age before `now`."""
    if matches(DURATION, text):
        with suppress(ValueError):
            return now - timedelta(milliseconds=duration(text))
        raise ValueError("an age of at most 365d, such as 24h")
    try:
        return moment(text)
    except ValueError as error:
        raise ValueError(f"{error}, or an age such as 24h or 30d") from None


def later(text: str, now: datetime) -> datetime:
    """A time, or how long it is until then from `now`."""
    try:
        return now + timedelta(milliseconds=clock(text)) if matches(DURATION, text) else moment(text)
    except ValueError as error:
        raise ValueError(f"{error}, or a duration such as 30d") from None


def is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
