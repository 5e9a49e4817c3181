"""Reversible masks: `[EMAIL_1]` goes to the provider in the place of an address, and comes back as the address."""

from extproc.stages.detectors import Detector
from extproc.stages.escapes import in_json
from extproc.stages.matching import Matcher
from extproc.stages.regex import pattern

_PLACEHOLDERS = Matcher([Detector("placeholder", pattern(r"\[[A-Z][A-Z0-9_]{0,39}_[0-9]{1,6}\]"))])


class Masks:
    """One request's values and their placeholders. The same value always gets the same one. Holds personal data: it
    lives as long as the exchange, has no repr and is never logged."""

    __slots__ = ("_places", "_taken", "_values")

    def __init__(self, taken: str) -> None:
        """`taken`: the request's text; a placeholder that is in it already is never given."""
        self._taken = taken
        self._values: dict[str, str] = {}
        self._places: dict[bytes, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self._values)

    def __repr__(self) -> str:
        return f"<Masks: {len(self._values)}>"

    def put(self, detector: Detector, match: bytes) -> bytes:
        place = self._places.get(match)
        if place is None:
            number = len(self._values) + 1
            while (text := f"[{detector.name.upper()}_{number}]") in self._taken or text in self._values:
                number += 1
            place = self._places[match] = text.encode()
            self._values[text] = match.decode()
        return place

    def back(self, detector: Detector, match: bytes) -> bytes:
        """The value of a placeholder; what is no placeholder stays."""
        return self._values.get(match.decode(), "").encode() or match

    def unmasked(self, text: str, *, json: bool = False) -> str:
        """`json`: the text is JSON itself."""
        return _PLACEHOLDERS.replaced(text, in_json(self.back) if json else self.back)


PLACEHOLDERS = _PLACEHOLDERS
