"""One attempt at one provider: what is sent, and how its answer becomes the client's."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from extproc.translate import jsontext
from extproc.translate.clients.writer import STREAM_TYPE, Origin, Writer
from extproc.translate.failures import (
    Answer,
    AnswerError,
    ClientName,
    UnreadableError,
    broken_off,
    from_body,
    render,
    unreadable,
)
from extproc.translate.jsontext import Object
from extproc.translate.losses import shown
from extproc.translate.neutral import CallStarted, Ended, Event, Finished, Unexpressed
from extproc.translate.providers.common import Dialect
from extproc.translate.wire.frames import Frame

# Names what was in a whole answer and has no place in the client's dialect; streams say it in comments.
NOT_TRANSLATED = "x-headgate-not-translated"
_EVENTS_IN_FRAME = 4096
_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9]")


class Tongue(NamedTuple):
    """How answers are written in a client's dialect."""

    name: ClientName
    whole: Callable[[list[Event], Origin], bytes]
    writer: Callable[[Origin], Writer]


class _Calls:
    """Gives tool calls without an id one that no other answer has; refuses calls without a name.

    Clients send ids back with the whole conversation, so numbers alone would come again. OpenAI's have 40 characters.
    An answer that calls tools stops for that: some servers, and OpenAI for a tool that was demanded, say `stop`.
    """

    def __init__(self, origin: Origin) -> None:
        self._prefix = "call_" + _NOT_IN_IDS.sub("", origin.id)[-24:]
        self._count = 0

    def named(self, event: Event) -> Event:
        if isinstance(event, Finished) and event.reason == "stop" and event.sequence is None and self._count:
            return event._replace(reason="tool_calls")
        if not isinstance(event, CallStarted):
            return event
        if not event.name:
            raise unreadable("a tool call has no name")
        self._count += 1
        return event if event.id else event._replace(id=f"{self._prefix}_{self._count}")


class Stream:
    """A streamed answer, piece by piece. Never raises for what a provider sends: the stream ends with an error event.

    Bounded: it holds one frame (`Options.max_frame` bytes) at most. After the end, or an error, it gives nothing more.
    """

    def __init__(self, dialect: Dialect, tongue: Tongue, origin: Origin, max_frame: int) -> None:
        self._framer = dialect.framer(max_frame)
        self._reader = dialect.reader()
        self._writer = tongue.writer(origin)
        self._calls = _Calls(origin)
        self._finished = False  # the provider said why it stopped
        self._over = False

    @property
    def over(self) -> bool:
        """Whether the client's stream has its end; what the provider still sends has no meaning."""
        return self._over

    def feed(self, chunk: bytes) -> bytes:
        """What the client gets for this chunk."""
        return self._guarded(lambda out: self._take(self._framer.feed(chunk), out))

    def end(self) -> bytes:
        """What the client gets when the provider has sent all; nothing when called again."""
        return self._guarded(self._close)

    def _guarded(self, step: Callable[[list[bytes]], None]) -> bytes:
        if self._over:
            return b""
        out: list[bytes] = []
        try:
            step(out)
        except AnswerError as error:
            self._over = True
            out.append(self._writer.fail(error.failure))
        except jsontext.JSONTextError:
            self._over = True
            out.append(self._writer.fail(unreadable("it is nested too deep").failure))
        return b"".join(out)

    def _take(self, frames: Iterable[Frame], out: list[bytes]) -> None:
        for frame in frames:
            for count, event in enumerate(self._reader.frame(frame)):
                if count > _EVENTS_IN_FRAME:
                    raise unreadable("an event has too many parts")
                if isinstance(event, Ended):
                    self._finish(out)
                    return
                self._finished = self._finished or isinstance(event, Finished)
                out.append(self._writer.event(self._calls.named(event)))

    def _close(self, out: list[bytes]) -> None:
        try:
            self._take(self._framer.end(), out)
        except UnreadableError:  # half a frame
            raise AnswerError(broken_off()) from None
        if self._over:
            return
        if not self._finished:
            raise AnswerError(broken_off())
        self._finish(out)

    def _finish(self, out: list[bytes]) -> None:
        self._over = True
        out.append(self._writer.finish())


class Exchange(NamedTuple):
    """How the answer to one request is read. Header names are in lower case."""

    client: ClientName
    read: Callable[[Object], Answer] | None = None  # a whole answer; None: answers are the client's as they are
    open: Callable[[], Stream] | None = None
    media_type: str = ""  # of the provider's streams
    stream_headers: tuple[tuple[str, str], ...] = ()  # to be set on the client's stream

    @property
    def untouched(self) -> bool:
        """Whether answers go to the client as they are: then nothing else of this need be called."""
        return self.read is None

    def streams(self, status: int, headers: Mapping[str, str]) -> bool:
        """Whether this answer is to be read with `stream`; else it is to be gathered for `whole`."""
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        return self.open is not None and 200 <= status < 300 and media_type == self.media_type

    def stream(self) -> tuple[dict[str, str], Stream]:
        """The headers to set, and what turns the provider's bytes into the client's; after `streams` said yes."""
        if self.open is None:
            raise ValueError("this answer is no stream to translate")
        return dict(self.stream_headers), self.open()

    def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer for the client. Never raises for what a provider sends."""
        if self.read is None:
            return Answer(status, {}, body)
        try:
            if not 200 <= status < 300:
                raise AnswerError(from_body(status, headers, body))
            return self.read(_object(headers, body))
        except AnswerError as error:
            return render(error.failure, self.client)
        except jsontext.JSONTextError:
            return render(unreadable("it is nested too deep").failure, self.client)


def of_chat(tongue: Tongue, dialect: Dialect, origin: Origin, max_frame: int, *, stream_asked: bool) -> Exchange:
    """The exchange of a chat between two dialects."""
    stream_headers = {"content-type": STREAM_TYPE}

    def read(answer: Object) -> Answer:
        events = list(map(_Calls(origin).named, dialect.reader().whole(answer)))
        if not stream_asked:
            headers = {"content-type": "application/json"}
            lost = dict.fromkeys(event.what for event in events if isinstance(event, Unexpressed))
            if lost:
                headers[NOT_TRANSLATED] = ", ".join(shown(what) for what in list(lost)[:16])
            return Answer(200, headers, tongue.whole(events, origin))
        writer = tongue.writer(origin)  # the provider did not stream; the client still gets events
        pieces = [writer.event(event) for event in events if not isinstance(event, Ended)]
        return Answer(200, stream_headers, b"".join([*pieces, writer.finish()]))

    def open_stream() -> Stream:
        return Stream(dialect, tongue, origin, max_frame)

    opener = open_stream if stream_asked else None
    return Exchange(tongue.name, read, opener, dialect.stream_type, tuple(stream_headers.items()))


def _object(headers: Mapping[str, str], body: bytes) -> Object:
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise unreadable("it is compressed, though that was not asked for")
    try:
        answer = jsontext.loads(body)
    except jsontext.JSONTextError as error:
        raise unreadable(str(error)) from None
    if not isinstance(answer, dict):
        raise unreadable("it is no object")
    return answer
