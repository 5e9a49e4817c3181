"""What the service counts of itself, since it started."""

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """`passed` and `refused`: requests. `settled`: tickets given back.

    `overruns`: requests that used more than was reserved for them. `unpriced`: that no known price bounds.
    `away_passed` and `away_refused`: requests decided by `on_error`. `outages` of the shared store, and `late`: what
    was settled only after one; `lost`: what was not, for too much waited. `errors`: calls that cannot be read, and
    limits that the settings do not have.
    """

    passed: int = 0
    refused: int = 0
    settled: int = 0
    overruns: int = 0
    unpriced: int = 0
    away_passed: int = 0
    away_refused: int = 0
    outages: int = 0
    late: int = 0
    lost: int = 0
    errors: int = 0

    def read(self) -> dict[str, int]:
        return asdict(self)
