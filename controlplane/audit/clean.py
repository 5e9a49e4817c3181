"""What may enter the audit log: short plain values, none of which looks like a secret. Pure."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

Plain = str | int | bool | None
Value = Plain | Sequence[str | int]
Details = Mapping[str, Value]

REDACTED = "[redacted]"
LONGEST_TEXT = 512  # characters; a longer text is cut and ends with an ellipsis
LONGEST_LIST = 50  # items; what a longer list leaves out is counted in its last item
MOST_FIELDS = 32
# What every JSON program reads exactly (RFC 8259, section 6). A larger number is passed as text.
LARGEST_INT = 2**53 - 1

_FIELD = re.compile(r"[a-z][a-z0-9_]{0,62}")
# As words of a field's name. `tokens` is a count and `key` a name, so these two are fine.
_SECRET_WORD = re.compile(
    r"(?:^|_)(?:secrets?|password|passwd|passphrase|pwd|token|credentials?|authorization|bearer|cookie|apikey|jwt)(?:$|_)"
)
_SECRET_NAMES = re.compile(r"(?:^|_)(?:api|private|signing|access|encryption|secret)_keys?(?:$|_)")
_SHAPES = re.compile(
    r"-----BEGIN"  # PEM
    r"|\beyJ[\w-]{8,}\.[\w-]+"  # JSON web tokens
    r"|(?i:\b(?:bearer|basic)\s+[\w.~+/=-]{8,})"  # RFC 6750, RFC 7617
    r"|://[^/\s:@]*:[^/\s@]+@"  # a password in a URL
    r"|\b(?:sk|pk|rk|gsk|hf|ghp|gho|ghs|glpat|xox[abprs])[-_][\w-]{16,}"
    r"|\b(?:AKIA|ASIA|AIza)[\w-]{12,}"
)
_RUN = re.compile(r"[A-Za-z0-9+/_=-]{24,}")


def details(given: Details) -> dict[str, Plain | list[str | int]]:
    """The details as they are logged: texts cut and masked.

    Raises:
        ValueError: a field is named like a secret, or a value is not plain. The message never holds the value.
    """
    if len(given) > MOST_FIELDS:
        raise ValueError(f"{len(given)} audit details, expected at most {MOST_FIELDS}")
    return {_field(name): _value(name, value) for name, value in given.items()}


def text(value: str) -> str:
    """A text as it is logged: `[redacted]` when it looks like a secret, cut when long, always encodable as UTF-8."""
    whole = value.encode("utf-8", "replace").decode()
    if looks_secret(whole):
        return REDACTED
    return whole if len(whole) <= LONGEST_TEXT else whole[: LONGEST_TEXT - 1] + "…"


def looks_secret(value: str) -> bool:
    """Whether a text has the shape of a known kind of secret, or holds a long run of random letters and digits.

    A heuristic against mistakes: digests and UUIDs in lower-case hex pass, and so would a secret written like them.
    """
    return bool(_SHAPES.search(value)) or any(_random(run) for run in _RUN.findall(value))


def _random(run: str) -> bool:
    """Names change between upper case, lower case and digits once a word; random text does so at 62% of its places."""
    kinds = ["u" if c.isupper() else "l" if c.islower() else "d" for c in run if c.isalnum()]
    changes = sum(a != b for a, b in pairwise(kinds))
    return len(kinds) >= 20 and len(set(kinds)) == 3 and changes > 0.4 * len(kinds)


def _field(name: str) -> str:
    if not _FIELD.fullmatch(name):
        raise ValueError(f"audit detail {text(name)!r}: expected lower-case letters, digits and underscores")
    if _SECRET_WORD.search(name) or _SECRET_NAMES.search(name):
        raise ValueError(f"audit detail {name!r} is named like a secret: log a name or an id instead")
    return name


def _value(name: str, value: Value) -> Plain | list[str | int]:
    if isinstance(value, list | tuple):
        kept = [_item(name, item) for item in value[:LONGEST_LIST]]
        return kept if len(value) <= LONGEST_LIST else [*kept, f"… {len(value) - LONGEST_LIST} more"]
    if value is None or isinstance(value, bool):
        return value
    return _item(name, value)


def _item(name: str, value: object) -> str | int:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > LARGEST_INT:
            raise ValueError(f"audit detail {name!r}: an integer beyond ±(2^53 - 1), pass it as text")
        return value
    raise ValueError(
        f"audit detail {name!r} is a {type(value).__name__}: expected text, integer, boolean, null or list"
    )
