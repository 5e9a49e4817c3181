"""Regular expressions that can be asked "may this end of a text still become a match?".

A stream has to hold back the end of its text as long as a match may begin in it, and not longer. For that each pattern
gets a second one, which matches every beginning of its matches. The language is what RE2 and most others share:
characters, classes, groups, alternatives, repeats, `\\b`; no look-around, no references. RE2 takes linear time for all.
"""

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import re2

_CLASS = re.compile(r"\[\^?\]?(?:\\.|\[:\^?[a-z]+:\]|[^\]\\])*\]", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:[pP](?:\{\^?\w{1,40}\}|\w)|x[0-9A-Fa-f]{2}|x\{[0-9A-Fa-f]{1,6}\}|[dDsSwWnrtfv]|[^\w\s])")
_REPEAT = re.compile(r"([*+?])|\{(\d{1,4})(?:(,)(\d{1,4})?)?\}")
_INNER_BOUND = re.compile(r"\{(?:\d+,)?(\d+)\}")
_REPEATS = re.compile(r"\)[*+?{].*\)[*+?{].*\)[*+?{]", re.DOTALL)
_GROUP = re.compile(r"\((?:\?(?::|P?<\w{1,40}>))?")
_FLAGS = re.compile(r"\(\?i\)")
_META = "()[]{}*+?|\\"
_MOST_PATTERN = 20_000  # characters
_MOST_DEPTH = 100
_MOST_REPEAT = 1000  # RE2's own bound
_MEMORY = 16 * 1024 * 1024  # bytes for a compiled pattern and what it caches


class PatternError(ValueError):
    """A pattern outside the language; the text says where."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """`source`: matches. `beginnings`: matches each beginning of a match, the empty one too. Both in RE2's language."""

    source: str
    beginnings: str


_NOTHING = Pattern("", "")


def pattern(text: str) -> Pattern:
    """Raises PatternError."""
    if len(text) > _MOST_PATTERN:
        raise PatternError(f"the pattern has {len(text)} characters: at most {_MOST_PATTERN} are expected")
    flags = _FLAGS.match(text)
    parser = _Parser(text, flags.end() if flags else 0)
    found = parser.alternatives(0)
    if parser.at < len(text):
        raise PatternError(f"{text!r}: ) at character {parser.at} closes nothing")
    if flags:
        found = Pattern(f"(?i:{found.source})", f"(?i:{found.beginnings})")
    compiled = compiled_bytes(found.source)
    if any((match := compiled.search(probe)) and match.end() == match.start() for probe in (b"", b"a", b" ")):
        raise PatternError(f"{text!r} matches the empty text")
    compiled_bytes(found.beginnings)
    return found


def literal(text: str, *, ignore_case: bool = False, whole_words: bool = False) -> Pattern:
    """A text as it is. `whole_words`: no letter or digit right before or behind it."""
    pieces = [_character(_escaped(c)) for c in text]
    if whole_words:
        edge = Pattern(r"\b", "")
        pieces = [edge] * _is_word(text[:1]) + pieces + [edge] * _is_word(text[-1:])
    found = _sequence(pieces)
    return Pattern(f"(?i:{found.source})", f"(?i:{found.beginnings})") if ignore_case else found


def either(patterns: list[Pattern]) -> Pattern:
    """Matches what one of them matches."""
    return Pattern(_or([one.source for one in patterns]), _or([one.beginnings for one in patterns]))


@lru_cache(maxsize=256)  # both directions of a rule use the same ones
def compiled_bytes(source: str) -> Any:
    """For UTF-8 bytes; of several matches at a place the longest. Raises PatternError."""
    options = re2.Options()
    options.longest_match = True
    options.max_mem = _MEMORY
    options.log_errors = False
    try:
        return re2.compile(source.encode(), options)
    except re2.error as error:
        message = error.args[0] if error.args else ""
        raise PatternError(f"{message.decode() if isinstance(message, bytes) else message}") from None


class _Parser:
    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.at = at

    def alternatives(self, depth: int) -> Pattern:
        if depth > _MOST_DEPTH:
            raise PatternError(f"groups are nested deeper than {_MOST_DEPTH}")
        found = [self._sequence(depth)]
        while self._peek() == "|":
            self.at += 1
            found.append(self._sequence(depth))
        return either(found) if len(found) > 1 else found[0]

    def _sequence(self, depth: int) -> Pattern:
        pieces = []
        while self._peek() not in ("", "|", ")"):
            pieces.append(self._repeated(self._atom(depth)))
        return _sequence(pieces)

    def _atom(self, depth: int) -> Pattern:
        text, at = self.text, self.at
        one = text[at]
        if one == "(":
            return self._group(depth)
        if one == "[":
            return _character(self._take(_CLASS, "a class that does not end"))
        if text.startswith((r"\b", r"\B"), at):
            self.at += 2
            return Pattern(text[at : at + 2], "")
        if one == "\\":
            return _character(self._take(_ESCAPE, "an escape that is not in the language"))
        self.at += 1
        if one == ".":
            return _character("(?s:.)")
        if one in "^$":
            raise PatternError(f"{text!r}: {one} at character {at}: texts come in parts, so they have no begin and end")
        if one in _META:
            raise PatternError(f"{text!r}: {one} at character {at} repeats nothing; as a character it is \\{one}")
        return _character(_escaped(one))

    def _group(self, depth: int) -> Pattern:
        begun = self.at
        self._take(_GROUP, "a group")
        if self._peek() == "?":
            raise PatternError(f"{self.text!r}: (? at character {begun}: look-around and flags are not in the language")
        inner = self.alternatives(depth + 1)
        if self._peek() != ")":
            raise PatternError(f"{self.text!r}: the group at character {begun} does not end")
        self.at += 1
        return Pattern(f"(?:{inner.source})", f"(?:{inner.beginnings})")

    def _repeated(self, atom: Pattern) -> Pattern:
        found = _REPEAT.match(self.text, self.at)
        if not found:
            return atom
        least, most = _bounds(found)
        if max(least, most or 0) > _MOST_REPEAT or (most is not None and most < least):
            raise PatternError(
                f"{self.text!r}: {found.group()} at character {self.at}: 0 to {_MOST_REPEAT} is expected"
            )
        nested = [int(bound) for bound in _INNER_BOUND.findall(atom.source)]
        if math.prod(nested) * max(least, most or 0, 1) > _MOST_REPEAT or (nested and _REPEATS.search(atom.source)):
            raise PatternError(
                f"{self.text!r}: repeats within repeats, at character {self.at}, are more than {_MOST_REPEAT}"
            )
        self.at = found.end()
        if self._peek() == "?":  # lazy or not, the longest match is taken
            self.at += 1
        if _REPEAT.match(self.text, self.at):
            raise PatternError(f"{self.text!r}: a repeat of a repeat at character {self.at}")
        before = "*" if most is None else f"{{0,{max(0, most - 1)}}}"
        beginnings = f"(?:{atom.source}){before}(?:{atom.beginnings})" if most != 0 else ""
        return Pattern(f"(?:{atom.source}){found.group()}", beginnings)

    def _take(self, what: re.Pattern[str], name: str) -> str:
        found = what.match(self.text, self.at)
        if not found:
            raise PatternError(f"{self.text!r}: {name}, at character {self.at}")
        self.at = found.end()
        return found.group()

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]


def _bounds(repeat: re.Match[str]) -> tuple[int, int | None]:
    sign, least, comma, most = repeat.groups()
    if sign:
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
    return int(least), int(most) if most else None if comma else int(least)


def _character(source: str) -> Pattern:
    return Pattern(source, f"(?:{source})?")


def _sequence(pieces: list[Pattern]) -> Pattern:
    """Beginnings of abc: of a, or a and then those of b, or a, b and those of c. Twice as long as the pattern."""
    if not pieces:
        return _NOTHING
    source = "".join([piece.source for piece in pieces])
    beginnings = pieces[-1].beginnings
    for piece in reversed(pieces[:-1]):
        beginnings = f"(?:{piece.beginnings}|{piece.source}(?:{beginnings}))"
    return Pattern(source, beginnings)


def _or(sources: list[str]) -> str:
    return "(?:" + "|".join(sources) + ")"


def _escaped(character: str) -> str:
    return f"\\{character}" if character in _META + ".^$" else character


def _is_word(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character == "_")
