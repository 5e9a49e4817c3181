"""Takes secrets out of an exchange before it is written. Pure.

Headers and query parameters are kept by name: what is not known to be harmless goes. The credentials of the request
itself are looked for in everything else, and so is what looks like a credential of anybody's.
"""

import json
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import orjson

from sidecars.recording.events import data_lines

MASK = "[redacted]"
_SHORTEST = 6  # a credential below this would be found in every other text

_REQUEST_HEADERS = frozenset(
    {"accept", "content-type", "user-agent", "anthropic-version", "anthropic-beta", "openai-beta", "x-request-id"}
)
_ANSWER_HEADERS = frozenset(
    {"content-type", "retry-after", "x-request-id", "request-id", "openai-processing-ms", "openai-version", "server",
     "x-should-retry", "x-headgate-dropped"}
)  # fmt: skip
_ANSWER_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")
_PARAMETERS = frozenset({"api-version", "limit", "after", "before", "order", "alt", "beta", "last"})
_CREDENTIAL = re.compile(r"auth|key|token|secret|password|passwd|cookie|session|signature|credential", re.IGNORECASE)

# Not in the middle of base64, where anything turns up by chance: embeddings and images are such texts.
_LOOKS_SECRET = re.compile(
    r"""(?<![A-Za-z0-9+/])(?:
      (?:sk|pk|rk)[-_][A-Za-z0-9_-]{12,} | (?:gsk|hf|whsec)_[A-Za-z0-9]{12,} | xai-[A-Za-z0-9]{12,}
    | AIza[A-Za-z0-9_-]{20,} | A(?:KIA|SIA)[A-Z0-9]{16} | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_[A-Za-z0-9_]{20,}
    | xox[a-z]-[A-Za-z0-9-]{10,} | eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*
    )|-----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_BEARER = re.compile(r"\b(Bearer|Basic)(\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
# A field named for a secret with a text as its value. `token` alone is none: log probabilities have it.
_FIELD = re.compile(
    r"(\\?[\"'](?:[a-z0-9]+[_-])*(?:api[_-]?key|secret(?:[_-]?access)?(?:[_-]?key)?|password|passwd|authorization|"
    r"(?:access|refresh|id|auth|session|bearer)[_-]?token|private[_-]?key|cookie|credentials?)\\?[\"']\s*:\s*\\?[\"'])"
    r"((?:\\\\.|[^\"'\\])+)",
    re.IGNORECASE,
)


def request_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Those of a request that may be kept, lower-case; of several by one name the last."""
    return {name.lower(): value for name, value in headers if name.lower() in _REQUEST_HEADERS}


def answer_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    found = ((name.lower(), value) for name, value in headers)
    return {name: value for name, value in found if name in _ANSWER_HEADERS or name.startswith(_ANSWER_PREFIXES)}


def target(path: str, query: str) -> str:
    """The path with its query, values of unknown parameters masked."""
    if not query:
        return path
    kept = [(name, value if name in _PARAMETERS else MASK) for name, value in parse_qsl(query, keep_blank_values=True)]
    return f"{path}?{urlencode(kept, safe='[]')}"


def credentials(headers: Iterable[tuple[str, str]], query: str) -> frozenset[str]:
    """Every secret that the request or the answer carried in headers or query, in the forms that it may turn up in."""
    found: set[str] = set()
    for name, value in headers:
        if (
            _CREDENTIAL.search(name)
            and name.lower() not in _ANSWER_HEADERS
            and not name.lower().startswith(_ANSWER_PREFIXES)
        ):
            found |= _parts(value)
    for name, value in parse_qsl(query):
        if name not in _PARAMETERS:
            found.add(value)
    long = {each for each in found if len(each) >= _SHORTEST}
    return frozenset(form for each in long for form in _forms(each))


def _parts(value: str) -> set[str]:
    """A header's value, what follows its scheme, the two sides of Basic, the values of cookies."""
    found = {value.strip()}
    scheme, _, rest = value.strip().partition(" ")
    if rest and scheme.isalpha():
        found.add(rest.strip())
        if scheme.lower() == "basic":
            try:
                user, _, password = b64decode(rest.strip(), validate=True).decode().partition(":")
                found |= {user, password}
            except ValueError:
                pass  # then it is opaque, and masked whole
    for part in re.split(r"[;,]", value):
        _, equals, inner = part.strip().partition("=")
        if equals:
            found.add(inner.strip().strip('"'))
    return found


def _forms(secret: str) -> set[str]:
    """As it is, inside JSON, and inside a URL."""
    escaped = json.dumps(secret)[1:-1]
    return {
        secret,
        escaped,
        escaped.replace("/", "\\/"),
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret, safe=""),
    }


def scrub(text: str, known: frozenset[str]) -> str:
    """`text` without the known secrets, and without what looks like one."""
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _FIELD.sub(rf"\1{MASK}", text)
    text = _BEARER.sub(rf"\1\2{MASK}", text)
    return _LOOKS_SECRET.sub(MASK, text)


def scrub_events(events: list[str], known: frozenset[str]) -> list[str]:
    """Each event scrubbed; and secrets that are spread over the same field of several events.

    Such a field is put whole, and clean, into the first of its events, and emptied in the others.
    """
    parsed = [_parsed(event) for event in events]
    spread: dict[str, list[tuple[int, Any, Any]]] = {}
    for number, data in enumerate(parsed):
        if isinstance(data, dict):
            for place, holder, key in _texts(data, ""):
                spread.setdefault(place, []).append((number, holder, key))
    touched = set()
    for pieces in spread.values():
        whole = "".join(holder[key] for _, holder, key in pieces)
        clean = scrub(whole, known)
        if len(pieces) > 1 and clean != "".join(scrub(holder[key], known) for _, holder, key in pieces):
            for position, (number, holder, key) in enumerate(pieces):
                holder[key] = "" if position else clean
                touched.add(number)
    return [
        scrub(_rendered(event, parsed[number]) if number in touched else event, known)
        for number, event in enumerate(events)
    ]


def _texts(value: Any, place: str) -> Iterable[tuple[str, Any, Any]]:
    """Every text in a document: its place, and the holder and key that it can be set by."""
    items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in items:
        if isinstance(each, str):
            yield f"{place}.{key}", value, key
        elif isinstance(each, dict | list):
            yield from _texts(each, f"{place}.{key}")


def _parsed(event: str) -> Any:
    lines = data_lines(event)
    if len(lines) != 1:
        return None
    try:
        return orjson.loads(lines[0][5:])
    except orjson.JSONDecodeError:
        return None


def _rendered(event: str, data: Mapping[str, Any]) -> str:
    return event.replace(data_lines(event)[0], f"data: {orjson.dumps(data).decode()}")
