"""Finds what detectors describe, in whole texts and in texts that come in parts; both find the same.

In parts, a text is held back from the first place where a match may begin that has not ended yet. A match that starts
before that place is decided: nothing that follows can make it longer, or another.
"""

from collections.abc import Callable, Sequence

from extproc.stages.detectors import Detector
from extproc.stages.regex import compiled_bytes, either

MOST_HELD = 8 * 1024  # bytes of one text; then it goes out, and a match across that place is found in part only

# What is put in the place of a match. It may raise, to end it all.
Put = Callable[[Detector, bytes], bytes]


class Matcher:
    """Several detectors as one pattern. Where several match at a place, the longest is taken."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self.detectors = tuple(detectors)
        sources = [one.pattern.source for one in detectors]
        self._any = compiled_bytes("|".join([f"({source})" for source in sources]))
        self._each = [compiled_bytes(source) for source in sources]
        self._open = compiled_bytes(rf"{either([one.pattern for one in detectors]).beginnings}\z")

    def replaced(self, text: str, put: Put) -> str:
        """The same object where nothing is found."""
        data = text.encode()
        if self._any.search(data) is None:
            return text
        return self.cut(data, 0, len(data), put)[0].decode()

    def open_from(self, data: bytes, at: int) -> int:
        """Where the held part begins: the text's end, if no match may have begun."""
        return int(self._open.search(data, at).start())

    def cut(self, data: bytes, at: int, held: int, put: Put) -> tuple[bytes, int]:
        """What goes out of data[at:], with replacements, and up to where. `held`: from `open_from`, or the end."""
        out: list[bytes] = []
        last = len(data)
        while True:
            found = self._next(data, at, held)
            if found is None:
                out.append(data[at:held])
                return b"".join(out), held
            start, stop, detector = found
            out += (data[at:start], put(detector, data[start:stop]))
            at = stop
            if at > held:
                held = last if held == last else self.open_from(data, at)

    def _next(self, data: bytes, at: int, held: int) -> tuple[int, int, Detector] | None:
        """The first match that starts before the held part and stands its check."""
        while found := self._any.search(data, at):
            start, stop = found.span()
            if start >= held:
                return None
            first = next(index for index in range(len(self._each)) if found.span(index + 1)[0] >= 0)
            # A match of nothing (between two letters, say) would be found again and again.
            checked = self._checked(data, start, stop, first) if stop > start else None
            if checked:
                return checked
            at = start + 1
            while at < len(data) and data[at] & 0xC0 == 0x80:
                at += 1
        return None

    def _checked(self, data: bytes, start: int, stop: int, first: int) -> tuple[int, int, Detector] | None:
        """The match itself; or, if it fails its check, the longest of the others at that place."""
        detector = self.detectors[first]
        span = detector.check(data[start:stop]) if detector.check else (0, stop - start)
        if span:
            return start, start + span[1], detector
        best: tuple[int, int, Detector] | None = None
        for index, other in enumerate(self.detectors):
            found = self._each[index].match(data, start) if index != first else None
            if found:
                span = other.check(found.group()) if other.check else (0, found.end() - start)
                if span and (best is None or start + span[1] > best[1]):
                    best = start, start + span[1], other
        return best


class Parts:
    """One text that comes in parts. `overflowed`: something was held beyond MOST_HELD."""

    __slots__ = ("_at", "_data", "_matcher", "_put", "overflowed")

    def __init__(self, matcher: Matcher, put: Put) -> None:
        self._matcher = matcher
        self._put = put
        self._data = b""  # what is held, behind one byte that went out: a word may end there
        self._at = 0
        self.overflowed = False

    def feed(self, text: str) -> str:
        data = self._data + text.encode()
        held = self._matcher.open_from(data, self._at)
        if len(data) - held > MOST_HELD:
            self.overflowed, held = True, len(data)
        return self._sent(data, held)

    def end(self) -> str:
        return self._sent(self._data, len(self._data)) if len(self._data) > self._at else ""

    @property
    def holds(self) -> bool:
        return len(self._data) > self._at

    def _sent(self, data: bytes, held: int) -> str:
        out, kept = self._matcher.cut(data, self._at, held, self._put)
        self._at = min(1, kept)
        self._data = data[kept - self._at :]
        return out.decode()
