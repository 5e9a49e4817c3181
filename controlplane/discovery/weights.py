"""A service's load -> its share of the requests. Pure.

Envoy's least_request prefers the endpoint with the largest weight / (its own requests in flight + 1), so that a
weight need not tell what this gateway sent there. It tells the size of the service, and what waits there beyond it:

    weight = 100 * capacity / (1 + queue / capacity)

A queue as long as the capacity halves the share. The queue is smoothed over heartbeats, and a weight that hardly
changed is not told again: each change is a push to every node.
"""

from typing import Final

_SCALE: Final = 100
_SMOOTHING: Final = 0.5  # the share of the newest report
_STEP: Final = 1.25  # weights closer together than this are as good as the same
_IDLE: Final = 0.05  # of the capacity: a queue this short is none


def smoothed(before: float, queue: int, capacity: int) -> float:
    """The queue that counts after a report of `queue`."""
    after = before + _SMOOTHING * (queue - before)
    return 0.0 if after < _IDLE * capacity and queue == 0 else after


def full(capacity: int) -> int:
    """The weight of a service without a queue."""
    return _SCALE * capacity


def weight(capacity: int, queue: float) -> int:
    return max(1, round(full(capacity) / (1 + queue / capacity)))


def told(before: int, capacity: int, queue: float) -> int:
    """The weight to tell nodes, when they know `before`."""
    now = weight(capacity, queue)
    worth_it = max(now, before) >= _STEP * min(now, before)
    return now if worth_it or now == full(capacity) else before
