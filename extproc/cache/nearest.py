"""Which stored text is the nearest to another: unit vectors in groups, compared all at once."""

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
_FIRST = 16  # rows that a group begins with


def unit(numbers: list[float]) -> Vector:
    """A vector of length 1. Raises ValueError for what has no direction."""
    made = np.asarray(numbers, dtype=np.float32)
    length = float(np.linalg.norm(made)) if made.ndim == 1 else 0.0
    if not made.size or not np.isfinite(length) or length == 0:
        raise ValueError("an embedding is a list of numbers that are not all zero")
    return made / np.float32(length)


class Group:
    """Vectors of one length, by key."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._rows: Vector = np.empty((_FIRST, size), dtype=np.float32)
        self._keys: list[bytes] = []
        self._places: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def put(self, key: bytes, vector: Vector) -> None:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self._keys)
            self._keys.append(key)
            if place == len(self._rows):
                self._rows = np.concatenate((self._rows, np.empty_like(self._rows)))
        self._rows[place] = vector

    def remove(self, key: bytes) -> None:
        """The last one takes its place."""
        place = self._places.pop(key, None)
        if place is None:
            return
        last = self._keys.pop()
        if last != key:
            self._rows[place] = self._rows[len(self._keys)]
            self._keys[place] = last
            self._places[last] = place

    def nearest(self, vector: Vector) -> tuple[bytes, float]:
        """The key and the cosine of the nearest one. The group must not be empty."""
        cosines = self._rows[: len(self._keys)] @ vector
        place = int(cosines.argmax())
        return self._keys[place], float(cosines[place])


class Nearest:
    """Groups by their names. Who stores the entries says when one is gone."""

    def __init__(self) -> None:
        self._groups: dict[bytes, Group] = {}

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def put(self, group: bytes, key: bytes, vector: Vector) -> None:
        """A group whose vectors have another length is begun anew: the model was changed for another."""
        known = self._groups.get(group)
        if known is None or known.size != len(vector):
            known = self._groups[group] = Group(len(vector))
        known.put(key, vector)

    def remove(self, group: bytes, key: bytes) -> None:
        known = self._groups.get(group)
        if known is not None:
            known.remove(key)
            if not len(known):
                del self._groups[group]

    def find(self, group: bytes, vector: Vector, threshold: float) -> tuple[bytes, float] | None:
        """The nearest one, if its cosine is at least `threshold`."""
        known = self._groups.get(group)
        if known is None or known.size != len(vector):
            return None
        key, cosine = known.nearest(vector)
        return (key, cosine) if cosine >= threshold else None
