"""Tells others of budgets: signed and retried HTTP calls, as in Standard Webhooks 1.0.0.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: a POST with `webhook-id`
(the same for every attempt: receivers drop what they have seen), `webhook-timestamp` (seconds, of the attempt) and
`webhook-signature`: "v1," and the base64 of HMAC-SHA256 over `id.timestamp.body`, with the bytes that the base64 after
`whsec_` stands for.

The body is JSON:

    {"id":        "evt_…",                      the same as webhook-id
     "type":      "budget.warned" | "budget.spent" | "budget.restored",
     "at":        "2026-03-01T12:00:00.000000Z",
     "account":   {"budget": "monthly", "owner_kind": "key" | "team" | "organization" | "", "owner": "alice",
                   "unit": "usd" | "tokens" | "requests", "on_spent": "block" | "warn" | "downgrade:MODEL"},
     "used":      "50.25",                      exact decimal in the unit, as a string
     "amount":    "50",
     "window":    {"start": "…Z", "end": "…Z"},
     "threshold": 0.8,                          budget.warned only
     "until":     "…Z"}                         budget.spent only: when it is free again if nothing more is spent

An event is in the outbox before `send` returns and leaves it when it was delivered or given up, so that it outlives the
process. Delivery is at least once, and in no fixed order.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Protocol

import httpx
import orjson
import structlog

from extproc.usage.budgets import Account, Event, Restored, Spent, Warned
from extproc.usage.record import PICO
from extproc.usage.windows import SECOND, microseconds, utc

TIMEOUT_S: Final = 20  # for a whole attempt; the specification recommends 15 to 30
CAPACITY: Final = 1000  # deliveries waiting per endpoint; beyond, the oldest goes
_LONGEST_WAIT_S: Final = 60  # the clock may step: it is looked at again at least this often

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where events go. `name` stands for it in logs and in the outbox: its URL may hold a secret too.

    Raises ValueError, without the secret, unless the URL is http(s) and the secret is `whsec_` and base64 of 24 to 64
    bytes.
    """

    name: str
    url: str = field(repr=False)
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL:
            raise ValueError(f"webhook {self.name!r}: not a URL") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"webhook {self.name!r}: expected an http:// or https:// URL with a host")
        signing_key(self.secret, self.name)


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to an endpoint: what the outbox keeps. It holds neither URL nor secret."""

    id: str  # unique in the outbox, and a file name
    event: str  # webhook-id
    endpoint: str
    body: str
    created_us: int
    attempts: int = 0
    next_us: int = 0


class Outbox(Protocol):
    """Keeps deliveries over restarts. `put` replaces one with the same id; `remove` of an absent one is no error."""

    def put(self, delivery: Delivery) -> None: ...
    def remove(self, delivery_id: str) -> None: ...
    def pending(self) -> list[Delivery]: ...


class FolderOutbox:
    """A JSON file per delivery. It appears by rename, whole or not at all: kill -9 at any time loses nothing put.

    The files are not synced: what was put in the last seconds before a power cut may be lost.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, delivery: Delivery) -> None:
        """Raises OSError when the disk is full or the folder is gone."""
        unfinished = self._folder / f"{delivery.id}.part"
        unfinished.write_bytes(orjson.dumps(asdict(delivery)))
        unfinished.replace(self._folder / f"{delivery.id}.json")

    def remove(self, delivery_id: str) -> None:
        (self._folder / f"{delivery_id}.json").unlink(missing_ok=True)

    def pending(self) -> list[Delivery]:
        """Oldest first; to be asked before anything is put.

        A file that cannot be read is set aside as `.broken`, with a logged error.
        """
        for unfinished in self._folder.glob("*.part"):
            unfinished.unlink(missing_ok=True)
        found: list[Delivery] = []
        for path in self._folder.glob("*.json"):
            try:
                found.append(Delivery(**orjson.loads(path.read_bytes())))
            except (orjson.JSONDecodeError, TypeError):
                _log.error("webhook outbox: unreadable file set aside", file=path.name)
                path.replace(path.with_suffix(".broken"))
        return sorted(found, key=lambda delivery: (delivery.created_us, delivery.id))


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


def signing_key(secret: str, name: str = "") -> bytes:
    """The bytes that `whsec_…` stands for. Raises ValueError, without the secret in it."""
    key = b""
    if secret.startswith("whsec_"):
        with suppress(binascii.Error, ValueError):
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    if not 24 <= len(key) <= 64:
        raise ValueError(f"webhook {name!r}: expected a secret of whsec_ and the base64 of 24 to 64 random bytes")
    return key


def headers(secret: str, event_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks for one attempt."""
    signed = hmac.digest(signing_key(secret), f"{event_id}.{at_s}.".encode() + body, "sha256")
    return {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }


def event_type(event: Event) -> str:
    return f"budget.{type(event).__name__.lower()}"


def event_id(event: Event) -> str:
    """The same for the same event of a calendar window, also when it is sent again after a crash."""
    account = event.account
    once = account.window.period is not None and not isinstance(event, Restored)
    when = event.window if once else event.at_us
    part = str(event.threshold) if isinstance(event, Warned) else ""
    what = repr((event_type(event), account.identity, account.amount, when, part))
    return f"evt_{hashlib.sha256(what.encode()).hexdigest()[:32]}"


def payload(event: Event) -> bytes:
    """The body, as described above."""
    account = event.account
    document: dict[str, object] = {
        "id": event_id(event),
        "type": event_type(event),
        "at": _iso(event.at_us),
        "account": {
            "budget": account.budget,
            "owner_kind": account.owner_kind,
            "owner": account.owner,
            "unit": "usd" if account.unit == "pico" else account.unit,
            "on_spent": account.on_spent,
        },
        "used": _decimal(account, event.spent),
        "amount": _decimal(account, account.amount),
        "window": {"start": _iso(event.window[0]), "end": _iso(event.window[1])},
    }
    if isinstance(event, Warned):
        document["threshold"] = float(event.threshold)
    if isinstance(event, Spent):
        document["until"] = _iso(event.until_us)
    return orjson.dumps(document)


def _iso(at_us: int) -> str:
    return utc(at_us).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _decimal(account: Account, amount: int) -> str:
    if account.unit != "pico":
        return str(amount)
    whole, part = divmod(amount, PICO)
    return f"{whole}.{part:012d}".rstrip("0").rstrip(".")


class Webhooks:
    """Sends events to every endpoint. `run()` delivers until it is cancelled; `send()` only puts them in the outbox.

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

    def send(self, event: Event) -> None:
        """Returns at once. An event that cannot be stored is still tried for as long as this process lives."""
        body, name = payload(event).decode(), event_id(event)
        for queue in self._queues.values():
            at = self._now()
            unique = hashlib.sha256(f"{name} {queue.endpoint.name}".encode()).hexdigest()[:32]
            self._put(queue, Delivery(unique, name, queue.endpoint.name, body, created_us=at, next_us=at))
            while len(queue.waiting) > self._capacity:
                oldest = next(iter(queue.waiting))
                _log.error("webhook dropped: too many wait", endpoint=queue.endpoint.name, waiting=self._capacity)
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
            self._remove(queue, delivery.id)
            return
        tried = replace(delivery, attempts=delivery.attempts + 1)
        spread = random.random()  # noqa: S311  jitter
        again = self._retries.next_us(tried, self._now(), spread, outcome.retry_after_us) if outcome.retry else None
        if again is None:
            _log.error("webhook given up", reason=outcome.reason, **about)
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


@dataclass(frozen=True, slots=True)
class _Outcome:
    done: bool
    retry: bool
    reason: str
    retry_after_us: int = 0


def _judge(status: int, retry_after: str, now_us: int) -> _Outcome:
    """RFC 9110 section 15 for statuses. A redirect is an error in the policy: it names another URL."""
    if 200 <= status < 300:
        return _Outcome(True, False, "")
    retry = status in (408, 429) or status >= 500
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
