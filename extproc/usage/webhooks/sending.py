"""Tells endpoints of events: signed HTTP calls, tried again until they arrive.

An event is in the outbox before `send` returns and leaves it when it was delivered or given up, so that it outlives the
process. Delivery is at least once, and in no fixed order.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import httpx
import structlog

from extproc.usage.budgets import Event
from extproc.usage.webhooks.body import event_id, headers, kind, payload
from extproc.usage.webhooks.endpoints import Endpoint
from extproc.usage.webhooks.outbox import Delivery, Outbox
from extproc.usage.windows import SECOND, microseconds

TIMEOUT_S: Final = 20  # for a whole attempt; the specification recommends 15 to 30
CAPACITY: Final = 1000  # deliveries waiting per endpoint; beyond, the oldest goes
FAILURES: Final = 3  # attempts in a row, after which an endpoint is in trouble
_LONGEST_WAIT_S: Final = 60  # the clock may step: it is looked at again at least this often

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Retries:
    """When a failed delivery is tried again: the wait doubles from `first_us` to `longest_us`, until `give_up_us`."""

    first_us: int = 2 * SECOND
    longest_us: int = 3600 * SECOND
    give_up_us: int = 24 * 3600 * SECOND

    def next_us(self, delivery: Delivery, now_us: int, spread: float, retry_after_us: int = 0) -> int | None:
        """The time of the next attempt, `delivery.attempts` having failed; None: give up.

        `spread`, 0 to 1, is the jitter: a wait is between half and the whole of its turn. The receiver's Retry-After
        makes it longer, never shorter.
        """
        turn = min(self.first_us << min(delivery.attempts - 1, 40), self.longest_us)
        at = now_us + max(turn // 2 + int(turn // 2 * spread), retry_after_us)
        return at if at <= delivery.created_us + self.give_up_us else None


class Webhooks:
    """Sends events to the endpoints that their budgets name. `run()` delivers until it is cancelled; `send()` only puts
    them in the outbox.

    `now` gives microseconds since the epoch, UTC. When the endpoints change: cancel `run()`, make another one on
    the same outbox.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        now: Callable[[], int],
        *,
        endpoints: Iterable[Endpoint],
        outbox: Outbox,
        retries: Retries = Retries(),
        capacity: int = CAPACITY,
    ) -> None:
        self._client, self._now, self._outbox = client, now, outbox
        self._retries, self._capacity = retries, capacity
        self._queues = {endpoint.name: _Queue(endpoint) for endpoint in endpoints}
        for delivery in outbox.pending():
            queue = self._queues.get(delivery.endpoint)
            if queue is None:
                _log.error("webhook dropped: its endpoint is gone", endpoint=delivery.endpoint, id=delivery.event)
                outbox.remove(delivery.id)
            else:
                queue.waiting[delivery.id] = delivery

    @property
    def waiting(self) -> int:
        return sum(len(queue.waiting) for queue in self._queues.values())

    def troubles(self) -> dict[str, str]:
        """Endpoints that fail for long, or lost events, and what is wrong with them."""
        found = {name: queue.trouble() for name, queue in self._queues.items()}
        return {name: trouble for name, trouble in found.items() if trouble}

    def send(self, event: Event) -> None:
        """Returns at once. An event that cannot be stored is still tried for as long as this process lives."""
        body, name = payload(event).decode(), event_id(event)
        for endpoint in event.account.webhooks:
            queue = self._queues.get(endpoint)
            if queue is None or kind(event) not in queue.endpoint.events:
                continue
            at = self._now()
            unique = hashlib.sha256(f"{name} {queue.endpoint.name}".encode()).hexdigest()[:32]
            self._put(queue, Delivery(unique, name, queue.endpoint.name, body, created_us=at, next_us=at))
            while len(queue.waiting) > self._capacity:
                oldest = next(iter(queue.waiting))
                _log.error("webhook dropped: too many wait", endpoint=queue.endpoint.name, waiting=self._capacity)
                queue.lost += 1
                self._remove(queue, oldest)
            queue.news.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for queue in self._queues.values():
                group.create_task(self._serve(queue))

    async def _serve(self, queue: "_Queue") -> None:
        """One attempt at a time per endpoint, so that a slow one holds up only itself."""
        while True:
            queue.news.clear()
            first = min(queue.waiting.values(), key=lambda delivery: delivery.next_us, default=None)
            wait_us = _LONGEST_WAIT_S * SECOND if first is None else first.next_us - self._now()
            if first is not None and wait_us <= 0:
                await self._attempt(queue, first)
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(queue.news.wait(), min(wait_us / SECOND, _LONGEST_WAIT_S))

    async def _attempt(self, queue: "_Queue", delivery: Delivery) -> None:
        outcome = await self._post(queue.endpoint, delivery)
        if delivery.id not in queue.waiting:  # dropped meanwhile
            return
        about = {"endpoint": delivery.endpoint, "id": delivery.event, "attempts": delivery.attempts + 1}
        if outcome.done:
            queue.failures = 0
            self._remove(queue, delivery.id)
            return
        queue.failures, queue.reason = queue.failures + 1, outcome.reason
        tried = replace(delivery, attempts=delivery.attempts + 1)
        spread = random.random()  # noqa: S311  jitter
        again = self._retries.next_us(tried, self._now(), spread, outcome.retry_after_us) if outcome.retry else None
        if again is None:
            _log.error("webhook given up", reason=outcome.reason, **about)
            queue.lost += 1
            self._remove(queue, delivery.id)
            return
        _log.warning("webhook failed, will be tried again", reason=outcome.reason, **about)
        self._put(queue, replace(tried, next_us=again))

    async def _post(self, endpoint: Endpoint, delivery: Delivery) -> "_Outcome":
        body = delivery.body.encode()
        signed = headers(endpoint.secret, delivery.event, self._now() // SECOND, body)
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._client.stream(
                    "POST", endpoint.url, content=body, headers=signed, follow_redirects=False, timeout=TIMEOUT_S
                ) as answer,  # whose body is not read
            ):
                return _judge(answer.status_code, answer.headers.get("retry-after", ""), self._now())
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            # The kind only: the text of some of these holds the URL.
            return _Outcome(False, True, type(error).__name__)

    def _put(self, queue: "_Queue", delivery: Delivery) -> None:
        queue.waiting[delivery.id] = delivery
        try:
            self._outbox.put(delivery)
        except OSError as error:
            _log.error("webhook outbox cannot be written: events will not outlive this process", error=error.strerror)

    def _remove(self, queue: "_Queue", delivery_id: str) -> None:
        queue.waiting.pop(delivery_id, None)
        try:
            self._outbox.remove(delivery_id)
        except OSError as error:
            _log.error("webhook outbox cannot be written: an event may come again", error=error.strerror)


class _Queue:
    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.waiting: dict[str, Delivery] = {}
        self.news = asyncio.Event()
        self.failures = 0  # in a row
        self.reason = ""  # of the last one
        self.lost = 0  # events that were given up, since the start

    def trouble(self) -> str:
        """What the operator must know; "" while all is well."""
        found = []
        if self.failures >= FAILURES:
            found.append(f"{self.failures} attempts in a row failed ({self.reason}); {len(self.waiting)} events wait")
        if self.lost:
            found.append(f"{self.lost} events were given up")
        return "; ".join(found)


@dataclass(frozen=True, slots=True)
class _Outcome:
    done: bool
    retry: bool
    reason: str
    retry_after_us: int = 0


def _judge(status: int, retry_after: str, now_us: int) -> _Outcome:
    """RFC 9110 section 15 for statuses. Only 410 Gone is a receiver's wish for no more; others may be mended, in the
    policy too: a redirect, which is not followed, names another URL.
    """
    if 200 <= status < 300:
        return _Outcome(True, False, "")
    retry = status != 410
    return _Outcome(False, retry, f"status {status}", _retry_after_us(retry_after, now_us) if retry else 0)


def _retry_after_us(value: str, now_us: int) -> int:
    """RFC 9110 section 10.2.3: seconds or a date; anything else counts as absent."""
    if value.isascii() and value.isdigit():
        return int(value[:12]) * SECOND
    try:
        at = parsedate_to_datetime(value)
        return max(microseconds(at if at.tzinfo else at.replace(tzinfo=UTC)) - now_us, 0)
    except (ValueError, OverflowError):
        return 0
