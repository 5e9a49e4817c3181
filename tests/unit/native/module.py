"""The module that Envoy runs, run in a stand-in for Envoy (host.zig), event by event."""

import ctypes
import runpy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
NATIVE = HERE.parents[2] / "envoy" / "native"

# How Envoy learns that a body is at its end: from its last bytes, from an empty chunk, or from trailers. Of a client
# that leaves it learns nothing more.
Ending = Literal["last", "empty", "trailers", "left"]

_REQUEST, _RESPONSE, _DYNAMIC, _ROUTE = 0, 2, 4, 5
_RECEIVED, _BUFFERED = 0, 1
_PROCEED, _HOLD = 0, 1
_ON = "envoy_dynamic_module_on_http_filter_"


class Bytes(ctypes.Structure):
    _fields_ = (("ptr", ctypes.c_void_p), ("length", ctypes.c_size_t))

    @classmethod
    def of(cls, text: bytes) -> "Bytes":
        return cls(ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p), len(text))

    @property
    def text(self) -> bytes:
        return ctypes.string_at(self.ptr, self.length) if self.ptr else b""


@dataclass(frozen=True, slots=True)
class Request:
    """What became of a request. `numbers` is what was left for limits."""

    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an answer, and what was left for the access log and for limits."""

    body: bytes
    headers: dict[str, str]
    entry: tuple[str, ...]  # client, model, instead, model that answered, usages
    numbers: dict[str, int]

    @property
    def model(self) -> str:
        return self.entry[3]

    @property
    def usage(self) -> tuple[str, ...]:
        return self.entry[4:]


@cache
def _host() -> ctypes.CDLL:
    target = HERE.parents[2] / "build" / "libhost.so"
    source = HERE / "host.zig"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        runpy.run_path(str(NATIVE / "build.py"))["build"](source, target)
    host = ctypes.CDLL(str(target), mode=ctypes.RTLD_GLOBAL)
    host.host_get.restype = ctypes.c_bool
    host.host_pieces.restype = ctypes.c_size_t
    return host


@cache
def _module() -> ctypes.CDLL:
    _host()  # has the names that the module asks for
    module = ctypes.CDLL(str(NATIVE / "libheadgate.so"))
    for name in ("config_new", "new"):
        getattr(module, _ON + name).restype = ctypes.c_void_p
    module.envoy_dynamic_module_on_program_init.restype = ctypes.c_char_p
    return module


class Stream:
    """One stream through one filter."""

    def __init__(self, filter_: int) -> None:
        self._filter = ctypes.c_void_p(filter_)

    def on(self, event: str, *arguments: bool) -> int:
        stream = ctypes.c_void_p(1)
        typed = [ctypes.c_bool(argument) for argument in arguments]
        answer: int = getattr(_module(), _ON + event)(stream, self._filter, *typed)
        return answer


class Filter:
    """A configured filter."""

    def __init__(self, kind: str, text: str = "") -> None:
        """Raises ValueError where Envoy would reject the configuration."""
        name, config = Bytes.of(kind.encode()), Bytes.of(text.encode())
        made = getattr(_module(), _ON + "config_new")(ctypes.c_void_p(1), name, config)
        if not made:
            raise ValueError("the configuration is rejected")
        self._config = ctypes.c_void_p(made)

    def __del__(self) -> None:
        if hasattr(self, "_config"):
            getattr(_module(), _ON + "config_destroy")(self._config)

    def request(
        self,
        body: bytes | Sequence[bytes],
        headers: Mapping[str, str],
        metadata: Mapping[str, str] | None = None,
        *,
        ending: Ending = "last",
        held: bool = False,
    ) -> Request:
        """`metadata` is the route's; `held`: an earlier filter waited for the whole body."""
        with self._stream(headers, metadata or {}) as stream:
            return self._requested(stream, [body] if isinstance(body, bytes) else body, ending, held)

    def attempted(
        self, chunks: Sequence[bytes], headers: Mapping[str, str], *, ending: Ending = "last"
    ) -> tuple[bytes, dict[str, str]]:
        """The answer to an attempt: what leaves the filter, and its headers then. AssertionError: the stream ended."""
        with self._stream({":path": "/v1/chat/completions"}, {}) as stream:
            _put(_RESPONSE, headers)
            if stream.on("response_headers", not chunks) == _HOLD:
                assert chunks, "headers wait for a body that does not come"
            sent = _passed(stream, "response", chunks, ending)
            assert _get(_DYNAMIC, "host/ended") is None, "the stream ended"
            names = (":status", "content-type", "content-length", "x-new", "retry-after")
            return sent, {name: value for name in names if (value := _get(_RESPONSE, name)) is not None}

    def ended(self) -> str | None:
        """Why the last stream was ended by the filter."""
        return _get(_DYNAMIC, "host/ended")

    def answer(
        self,
        chunks: Sequence[bytes],
        headers: Mapping[str, str],
        *,
        ending: Ending = "empty",
        request: bytes = b'{"model":"m"}',
    ) -> Answer:
        """The answer to a chat by alice."""
        asking = {"content-type": "application/json", ":path": "/v1/chat/completions", "x-headgate-client": "alice"}
        with self._stream(asking, {}) as stream:
            self._requested(stream, [request], "last", False)
            _put(_RESPONSE, headers)
            stream.on("response_headers", False)
            sent = _passed(stream, "response", chunks, ending)
            after = {name: value for name in headers if (value := _get(_RESPONSE, name)) is not None}
            stream.on("stream_complete")
            left = _get(_DYNAMIC, "headgate/entry")
            kinds = ("input", "output", "cached", "cache_write", "total")
            counted = {name: _get(_DYNAMIC, f"headgate/{name}_tokens") for name in kinds}
        numbers = {name: int(value) for name, value in counted.items() if value is not None}
        return Answer(sent, after, tuple((left or "").split("\x1f")), numbers)

    def holds_answer(self, metadata: Mapping[str, str], *, ends: bool = False) -> bool:
        """Whether an answer's headers wait for its body."""
        asking = {"content-type": "application/json", ":path": "/v1/chat/completions"}
        with self._stream(asking, metadata) as stream:
            self._requested(stream, [b'{"model":"m"}'], "last", False)
            return stream.on("response_headers", ends) == _HOLD

    @contextmanager
    def _stream(self, headers: Mapping[str, str], metadata: Mapping[str, str]) -> Iterator[Stream]:
        _host().host_clear()
        _put(_REQUEST, headers)
        _put(_ROUTE, metadata)
        stream = Stream(getattr(_module(), _ON + "new")(self._config, ctypes.c_void_p(1)))
        try:
            yield stream
        finally:
            getattr(_module(), _ON + "destroy")(stream._filter)

    def _requested(self, stream: Stream, chunks: Sequence[bytes], ending: Ending, held: bool) -> Request:
        if not any(chunks) and ending == "last":
            stream.on("request_headers", True)
            sent = b""
        else:
            stream.on("request_headers", False)
            if held:
                _host().host_received_is_buffered()
            sent = _passed(stream, "request", chunks, ending)
        names = (
            "x-headgate-model",
            "x-headgate-cap",
            "x-headgate-stream",
            "x-envoy-original-path",
            "content-length",
            ":path",
        )
        return Request(sent, {name: value for name in names if (value := _get(_REQUEST, name)) is not None})


def _passed(stream: Stream, direction: str, chunks: Sequence[bytes], ending: Ending) -> bytes:
    """Has a body pass the filter: the bytes that leave it."""
    received = {"request": 0, "response": 2}[direction]
    buffered, sent = received + 1, list[bytes]()
    arriving = [*chunks, b""] if ending == "empty" else list(chunks)
    for index, chunk in enumerate(arriving):
        _give(received, chunk)
        ends = ending in ("last", "empty") and index == len(arriving) - 1
        if stream.on(f"{direction}_body", ends) == _HOLD:
            for piece in _pieces(received):
                _give(buffered, piece)
        else:
            sent += _pieces(buffered) + _pieces(received)
            _host().host_drop(buffered)
        _host().host_drop(received)
    if ending == "trailers":
        stream.on(f"{direction}_trailers")
        sent += _pieces(buffered)
    return b"".join(sent)


def _put(table: int, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        _host().host_put(table, name.encode(), Bytes.of(value.encode("latin-1")))


def _get(table: int, name: str) -> str | None:
    value = Bytes()
    return value.text.decode("latin-1") if _host().host_get(table, name.encode(), ctypes.byref(value)) else None


def _give(body: int, chunk: bytes) -> None:
    if chunk:
        _host().host_give(body, Bytes.of(chunk))


def _pieces(body: int) -> list[bytes]:
    found = []
    for index in range(_host().host_pieces(body)):
        piece = Bytes()
        _host().host_piece(body, index, ctypes.byref(piece))
        found.append(piece.text)
    return found
