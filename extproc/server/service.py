"""The gRPC service of one worker: Envoy's ext_proc protocol, health by settings version, and counters.

`/headgate.inline.v1.Counters/Read` takes an empty message and answers the counters as JSON.
"""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from functools import lru_cache

import orjson
import structlog
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf.message import DecodeError

from extproc.rpc.call import Answer, CallError, Method, Served, Status
from extproc.rpc.headers import Head
from extproc.rpc.health import NOT_SERVING, SERVING, UNKNOWN, Health
from extproc.rpc.server import Server
from extproc.server import exchange as exchanges
from extproc.server import settings
from extproc.server.asking import Others, Talk
from extproc.server.counters import Counters
from extproc.server.exchange import Exchange, Pause
from extproc.server.library import Library, UnknownError
from extproc.server.translating import TRANSLATION, Translating
from extproc.stages.settings import SettingsError
from extproc.translate.settings import Translation, parse

_log = structlog.get_logger(__name__)

# A body beyond this goes to a thread, so that small ones need not wait for it.
_LARGE = 128 << 10
# Exchanges beyond these are refused at once, so that another worker is asked.
MOST_EXCHANGES = 10_000


class Processor:
    """One exchange: an answer for each message, as soon as it can be told."""

    def __init__(self, library: Library, counters: Counters, talk: Talk, translation: str | None) -> None:
        self._library = library
        self._counters = counters
        self._talk = talk
        self._told = translation
        self._exchange: Exchange | Translating | None = None

    def message(self, raw: bytes) -> Answer | Awaitable[Answer]:
        """Raises CallError: closed rules have Envoy fail the request then, others let it pass."""
        try:
            message = ext_proc.ProcessingRequest.FromString(raw)
            exchange = self._exchange = self._exchange or self._begun(message)
            if exchange is None:
                return self._loaded(message, len(raw))
            if len(raw) > _LARGE:
                return self._aside(exchange, message)
            return self._answered(exchange, exchange.respond(message), len(raw))
        except DecodeError as error:
            if self._exchange is not None:
                raise self._broken(error) from error
            # Of a client's making, which could rid itself so of the rules that may be passed over.
            return Answer(exchanges.unreadable().SerializeToString(), last=True)
        except (ValueError, UnknownError, OSError) as error:
            raise self._broken(error) from error

    async def _aside(self, exchange: Exchange | Translating, message: ext_proc.ProcessingRequest) -> Answer:
        """In a thread, so that others need not wait for it."""
        try:
            answer = self._answered(exchange, await asyncio.to_thread(exchange.respond, message), _LARGE + 1)
            return answer if isinstance(answer, Answer) else await answer
        except ValueError as error:
            raise self._broken(error) from error

    def _answered(
        self, exchange: Exchange | Translating, answer: ext_proc.ProcessingResponse | Pause, size: int
    ) -> Answer | Awaitable[Answer]:
        if not isinstance(answer, Pause):
            return Answer(answer.SerializeToString(), exchange.over)
        told = self._told_by_others(exchange, answer, size)
        # Envoy waits longer from then on.
        return told if answer.first is None else Answer(answer.first.SerializeToString(), then=told)

    async def _told_by_others(self, exchange: Exchange | Translating, pause: Pause, size: int) -> Answer:
        """The answer to a message of that many bytes, once others have told what it depends on."""
        told = await self._talk.ask(pause.asking)
        try:
            next_ = pause.go_on(told) if size <= _LARGE else await asyncio.to_thread(pause.go_on, told)
        except ValueError as error:
            raise self._broken(error) from error
        answer = self._answered(exchange, next_, size)
        return answer if isinstance(answer, Answer) else await answer

    async def _loaded(self, message: ext_proc.ProcessingRequest, size: int) -> Answer:
        """With settings that are not at hand yet."""
        try:
            version, _, _ = settings.place(exchanges.route(message))
            await self._library.load(version)
            exchange = self._exchange = self._begun(message)
            if exchange is None:
                raise UnknownError(f"version {version} was let go of at once: too many versions are in use")
            if size > _LARGE:
                return await self._aside(exchange, message)
            answer = self._answered(exchange, exchange.respond(message), size)
            return answer if isinstance(answer, Answer) else await answer
        except (ValueError, UnknownError, OSError) as error:
            raise self._broken(error) from error

    def _begun(self, message: ext_proc.ProcessingRequest) -> Exchange | Translating | None:
        """None: the settings that it names are not at hand."""
        # Where an attempt at a provider is to be translated, the exchange says how.
        if self._told is not None:
            return Translating(_translation(self._told), counters=self._counters, now=datetime.now(UTC))
        version, name, streamed = settings.place(exchanges.route(message))
        chain = self._library.known(version, name)
        if chain is None:
            return None
        return Exchange(chain, streamed=streamed, counters=self._counters, now=datetime.now(UTC))

    def _broken(self, error: Exception) -> CallError:
        self._counters.broken += 1
        _log.error("an exchange cannot be served", reason=str(error))
        return CallError(Status.FAILED_PRECONDITION, "see the worker's log")


@lru_cache(maxsize=1024)
def _translation(told: str) -> Translation:
    return parse(told)


class Service:
    """The gRPC server on a unix socket."""

    def __init__(self, socket: str, library: Library, counters: Counters, others: Others | None = None) -> None:
        self.socket = socket
        self._others = others or Others()
        self._library = library
        self._counters = counters
        self._health = Health(self._check)
        methods: dict[str, Method] = self._health.methods | {
            "/envoy.service.ext_proc.v3.ExternalProcessor/Process": self._process,
            "/headgate.inline.v1.Counters/Read": lambda _: self._read,
        }
        self._server = Server(methods, MOST_EXCHANGES)

    async def start(self) -> None:
        """Raises OSError when the socket cannot be had. Only this user may connect."""
        try:
            await self._server.start(self.socket)
        except OSError as error:
            raise OSError(f"cannot listen on {self.socket}: {error}. Use a path of a folder that exists") from None

    async def drain(self, grace_s: float) -> None:
        """Says that it goes, lets exchanges in progress end, and stops."""
        self._health.drain()
        await self._server.stop(grace_s)

    def _process(self, head: Head) -> Served:
        talk = self._others.talk()
        made = Processor(self._library, self._counters, talk, head.metadata.get(TRANSLATION))
        return Served(made.message, talk.end)

    async def _check(self, version: str) -> bytes:
        """Whether requests that name a settings version can be served, or any, where it names none."""
        if version:
            try:
                await self._library.load(version)
            except UnknownError:
                return UNKNOWN
            except (SettingsError, OSError) as error:
                _log.error("settings cannot be used", version=version, reason=str(error))
                return NOT_SERVING
        return SERVING

    def _read(self, _: bytes) -> Answer:
        return Answer(orjson.dumps(self._counters.read()), last=True)
