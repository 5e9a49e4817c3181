"""What Envoy is told: pass or not, the headers for the client, and metadata for error bodies and the second call.

Metadata on a refusal: `refused` (the rule's name, up to a colon), `kind`, `reason`, and `code` as in OpenAI's errors.
Otherwise `ticket`, if the end of the stream matters.
"""

from collections.abc import Iterable

from envoy.service.ratelimit.v3 import rls_pb2 as rls

from extproc.limits.desk import Outcome, Reason, Row
from extproc.limits.settings import Kind, Unit
from extproc.usage.windows import SECOND

_UNAVAILABLE_S = 1  # until the store may be back
_UNITS = {Kind.REQUESTS: Unit.REQUESTS, Kind.TOKENS: Unit.TOKENS}


def answer(outcome: Outcome) -> rls.RateLimitResponse:
    """The response to the call at the request."""
    refused = outcome.refused
    code = rls.RateLimitResponse.OVER_LIMIT if refused else rls.RateLimitResponse.OK
    made = rls.RateLimitResponse(overall_code=code)
    for name, value in _headers(outcome):
        made.response_headers_to_add.add(key=name, value=value)
    if refused:
        for key, text in _refusal(refused, outcome.reason).items():
            made.dynamic_metadata.fields[key].string_value = text
    elif outcome.ticket:
        made.dynamic_metadata.fields["ticket"].string_value = outcome.ticket
    return made


def done() -> rls.RateLimitResponse:
    """The response to the call when the stream is done; nobody reads it."""
    return rls.RateLimitResponse(overall_code=rls.RateLimitResponse.OK)


def code(row: Row, reason: Reason) -> str:
    """OpenAI's error code: a budget is not over in a minute, so clients should not try again."""
    if reason is Reason.UNAVAILABLE:
        return "limits_unavailable"
    if reason is Reason.UNPRICED or row.lane.rule.kind is Kind.BUDGET:
        return "insufficient_quota"
    return "rate_limit_exceeded"


def _refusal(row: Row, reason: Reason) -> dict[str, str]:
    name, kind = row.lane.name.partition(":")[0], row.lane.rule.kind
    return {"refused": name, "kind": kind.value, "reason": reason.value, "code": code(row, reason)}


def _headers(outcome: Outcome) -> Iterable[tuple[str, str]]:
    for kind, unit in _UNITS.items():
        row = _tightest([row for row in outcome.rows if row.lane.rule.kind is kind], outcome.refused)
        if row is not None and row.standing is not None:
            room = row.lane.rule.room
            yield f"x-ratelimit-limit-{unit}", str(room)
            yield f"x-ratelimit-remaining-{unit}", str(max(room - row.standing.used, 0))
            yield f"x-ratelimit-reset-{unit}", str(_seconds(row.standing.reset_us))
    refused = outcome.refused
    if refused is None:
        return
    standing = refused.standing
    if outcome.reason is Reason.UNPRICED:
        yield "x-should-retry", "false"
        return
    yield "retry-after", str(max(_seconds(standing.wait_us), 1) if standing else _UNAVAILABLE_S)
    hopeless = standing is None or not standing.pending
    if code(refused, outcome.reason) == "insufficient_quota" and hopeless:
        yield "x-should-retry", "false"


def _tightest(rows: list[Row], refused: Row | None) -> Row | None:
    """The one that refused, else the one with the smallest part of its room left."""
    counted = [row for row in rows if row.standing is not None]
    if refused in counted:
        return refused
    return min(counted, key=_left, default=None)


def _left(row: Row) -> float:
    used = row.standing.used if row.standing else 0
    return (row.lane.rule.room - used) / row.lane.rule.room


def _seconds(us: int) -> int:
    return -(-us // SECOND)
