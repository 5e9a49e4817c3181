"""What is found in texts: personal data and secrets of well-known formats. Each is a pattern and, where the format has
a checksum, a check, which may also narrow the match down."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from extproc.stages.regex import Pattern, pattern

Span = tuple[int, int]
# The part of a match that counts; None: the match is none.
Check = Callable[[bytes], Span | None]


class Kind(StrEnum):
    EMAIL = "email"
    PHONE = "phone"
    CARD = "credit_card"
    IBAN = "iban"
    SECRET = "secret"  # noqa: S105 - what is looked for
    SSN = "us_ssn"
    IP = "ip_address"


@dataclass(frozen=True, slots=True)
class Detector:
    """`name`: as logged, and in capitals in the place of what was found."""

    name: str
    pattern: Pattern
    check: Check | None = None


_CARD = rb"\d(?:[ -]?\d){12,18}"
_LENGTHS = {16, 15, 14, 13, 19, 18, 17}
# Length of an IBAN by country, from the registry that SWIFT publishes.
_IBAN = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
}  # fmt: skip
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def luhn(digits: bytes) -> bool:
    """The checksum of card numbers (ISO/IEC 7812): every second digit from the right is doubled."""
    values = [digit - 48 for digit in reversed(digits)]
    return (sum(values[::2]) + sum([_DOUBLED[value] for value in values[1::2]])) % 10 == 0


def card(match: bytes) -> Span | None:
    """A valid number from the match's start: of the usual lengths, ending where a group ends."""
    places = [at for at, byte in enumerate(match) if 48 <= byte <= 57]
    digits = bytes([match[at] for at in places])
    for length in sorted((length for length in _LENGTHS if length <= len(digits)), key=lambda n: n != 16):
        end = places[length - 1] + 1
        ends = end == len(match) or match[end] in b" -"
        if ends and len(set(digits[:length])) > 1 and luhn(digits[:length]):
            return 0, end
    return None


def iban(match: bytes) -> Span | None:
    """ISO 13616: the country's length, and 97 leaves 1 when the first four are moved to the end and A is 10."""
    length = _IBAN.get(match[:2].decode(), 0)
    places = [at for at, byte in enumerate(match) if byte != 32]
    if not length or len(places) < length:
        return None
    end = places[length - 1] + 1
    if end < len(match) and match[end] != 32:
        return None
    text = match[:end].replace(b" ", b"").decode()
    number = "".join([str(int(c, 36)) for c in text[4:] + text[:4]])
    return (0, end) if int(number) % 97 == 1 else None


def phone(match: bytes) -> Span | None:
    digits = sum(48 <= byte <= 57 for byte in match)
    return (0, len(match)) if 8 <= digits <= 15 else None


def ssn(match: bytes) -> Span | None:
    """Area 000, 666 and 9xx, group 00 and serial 0000 are never given."""
    area, group, serial = match.split(b"-")
    given = area not in (b"000", b"666") and not area.startswith(b"9") and group != b"00" and serial != b"0000"
    return (0, len(match)) if given else None


def ip(match: bytes) -> Span | None:
    return (0, len(match)) if all(int(part) < 256 for part in match.split(b".")) else None


_SECRETS = "|".join(
    (
        r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # AWS
        r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b",  # GitHub
        r"\bgithub_pat_[A-Za-z0-9_]{22,255}\b",
        r"\bglpat-[A-Za-z0-9_\-]{20,100}\b",  # GitLab
        r"\bxox[abeprs]-[A-Za-z0-9\-]{10,250}\b",  # Slack
        r"\bsk-[A-Za-z0-9_\-]{20,250}\b",  # OpenAI, Anthropic and many that follow them
        r"\bAIza[A-Za-z0-9_\-]{35}",  # Google
        r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,250}\b",  # Stripe
        r"\bhf_[A-Za-z0-9]{30,60}\b",  # Hugging Face
        r"\beyJ[A-Za-z0-9_\-]+\.eyJ[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]+",  # a signed JSON web token
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=:,\-\s\\]*-----END [A-Z ]{0,30}PRIVATE KEY-----",
    )
)
_DETECTORS = {
    Kind.EMAIL: (r"\b[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9\-]{1,63}\.){1,8}[A-Za-z]{2,24}\b", None),
    Kind.PHONE: (
        r"\+\d{1,3}[ .\-]?(?:\(\d{1,4}\)[ .\-]?)?\d{1,4}(?:[ .\-/]?\d{2,4}){1,4}\b"
        r"|(?:\(\d{3}\) ?|\b\d{3}[\-. ])\d{3}[\-. ]\d{4}\b",
        phone,
    ),
    Kind.CARD: (r"\b[2-6]\d{3}(?:\d{9,15}|(?:[ \-]\d{4}){3}(?:[ \-]\d{3})?|[ \-]\d{6}[ \-]\d{4,5})\b", card),
    Kind.IBAN: (r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", iban),
    Kind.SECRET: (_SECRETS, None),
    Kind.SSN: (r"\b\d{3}-\d{2}-\d{4}\b", ssn),
    Kind.IP: (r"\b(?:\d{1,3}\.){3}\d{1,3}\b", ip),
}


def detector(kind: Kind) -> Detector:
    source, check = _DETECTORS[kind]
    return Detector(kind.value, pattern(source), check)


NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
