"""What Envoy asks, in its rate limit service protocol, and the tickets that connect a request's two calls.

At the request, a descriptor for each limit that applies: ("limit", NAME), then where they are known ("who", WHO) or
("remote_address", WHO), ("model", MODEL), ("bytes", N) of the body, ("cap", N) tokens of output. When the stream is
done: ("ticket", TICKET), ("count", WHAT), with the number as the descriptor's hits; WHAT is `status` of the answer,
0 when none began, and `total_tokens`, `input_tokens`, `output_tokens`, `cached_tokens`,
`cache_write_tokens`, each absent or 0 when the provider did not report it. `controlplane.xds.fleet` makes Envoy send
this.

https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/service/ratelimit/v3/rls.proto
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from extproc.usage.prices import MAX_TOKENS

_MAX_BYTES = 2**50


@dataclass(frozen=True, slots=True)
class Asked:
    """One limit that a request needs room in. None: not known."""

    limit: str
    who: str
    model: str
    body_bytes: int | None
    cap: int | None


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a stream. `counts` has what the provider reported and can be."""

    ticket: str
    status: int
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Held:
    """What a request took of one limit. `window`: end of the calendar window, 0 without.

    `anyway`: charge what was used even if nothing is held.
    """

    limit: str
    who: str
    amount: int
    window: int
    anyway: bool


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a request holds until it is done, told to Envoy so that any process can settle it."""

    call: str
    model: str
    held: tuple[Held, ...]


class CallError(ValueError):
    """A call that is none of this protocol."""


def parse(request: Any) -> tuple[Asked, ...] | Done:
    """A RateLimitRequest's meaning; raises CallError."""
    descriptors = [
        ({entry.key: entry.value for entry in descriptor.entries}, descriptor) for descriptor in request.descriptors
    ]
    if not descriptors:
        raise CallError("a call without descriptors")
    if "ticket" in descriptors[0][0]:
        return _done(descriptors)
    asked = {}
    for entries, _ in descriptors:
        try:
            limit, who = entries["limit"], entries.get("who") or entries.get("remote_address", "")
        except KeyError:
            raise CallError(f"a descriptor with {sorted(entries)}: `limit` or `ticket` is expected") from None
        asked[limit, who] = Asked(
            limit,
            who,
            entries.get("model", ""),
            _number(entries.get("bytes", ""), _MAX_BYTES),
            _number(entries.get("cap", ""), MAX_TOKENS),
        )
    return tuple(asked.values())


def _done(descriptors: list[tuple[dict[str, str], Any]]) -> Done:
    """A number that no answer can have counts as not reported."""
    counts = {}
    for entries, descriptor in descriptors:
        number = descriptor.hits_addend.value
        if "count" in entries and 0 < number <= MAX_TOKENS:
            counts[entries["count"]] = number
    status = counts.pop("status", 0)
    return Done(descriptors[0][0]["ticket"], status, counts)


def _number(text: str, most: int) -> int | None:
    """A header's whole number, bounded; None for anything else."""
    if not (text.isascii() and text.isdigit()):
        return None
    return min(int(text), most) if len(text) < 20 else most


def write_ticket(ticket: Ticket) -> str:
    """Text for Envoy to keep; `read_ticket` is its inverse."""
    held = [[each.limit, each.who, each.amount, each.window, each.anyway] for each in ticket.held]
    return orjson.dumps([ticket.call, ticket.model, held]).decode()


def read_ticket(text: str) -> Ticket:
    """Raises CallError."""
    try:
        call, model, held = orjson.loads(text)
        return Ticket(call, model, tuple(Held(*each) for each in held))
    except (ValueError, TypeError):
        raise CallError("a ticket that this service did not write") from None
