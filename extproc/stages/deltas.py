"""Rewrites the texts of a streamed answer: each choice's text is one text, however it is cut into events.

What a rewriter holds back comes out with the text's next event, with the event that ends the choice, or in an event of
its own before that one. Chat, completions, Anthropic's messages and the Responses API.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import orjson

from extproc.json_splice import Document
from extproc.stages import sse
from extproc.stages.protocol import Endpoint, Refusal
from extproc.stages.texts import is_json, strings

Path = tuple[str | int, ...]
Key = tuple[Any, ...]
MOST_TEXTS = 1024  # texts at once in one stream

_CHAT = ("content", "refusal", "reasoning_content", "reasoning")
_CLAUDE = ("text", "thinking", "partial_json")
# Lists of a delta, and where each of their elements has a text.
_LISTED = (
    ("tool_calls", ("function", "arguments")),
    ("tool_calls", ("custom", "input")),
    ("reasoning_details", ("text",)),
    ("reasoning_details", ("summary",)),
)
_WHOLE = ("text", "arguments", "refusal", "delta", "output", "message")


class Rewriter(Protocol):
    """One text in parts."""

    @property
    def holds(self) -> bool: ...

    def feed(self, text: str) -> str: ...

    def end(self) -> str: ...


class Blocked(Exception):  # noqa: N818 - an outcome, not an error
    """A rewriter's way to end the stream."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


class _Open:
    """A text that goes on: its rewriter, and its last event, to make one like it from."""

    __slots__ = ("data", "event", "path", "rewriter")

    def __init__(self, rewriter: Rewriter) -> None:
        self.rewriter = rewriter
        self.event = b""
        self.data = b""
        self.path: Path = ()


class Deltas(sse.EventStream):
    """`rewriter` makes one for each text. `whole` rewrites a text that an event repeats as a whole, at its end.

    Both are told whether the text is JSON itself.
    """

    open = False

    def __init__(
        self, endpoint: Endpoint, rewriter: Callable[[bool], Rewriter], whole: Callable[[str, bool], str]
    ) -> None:
        super().__init__(endpoint)
        self._rewriter = rewriter
        self._whole = whole
        self._texts: dict[Key, _Open] = {}

    def event(self, event: bytes) -> bytes:
        data = sse.data_of(event)
        if data is None:
            return event
        try:
            return self._rewritten(event, data)
        except Blocked as blocked:
            self._texts.clear()
            return self.abort(blocked.refusal)

    def finish(self) -> bytes:
        try:
            return self._flushed(list(self._texts))
        except Blocked as blocked:
            return self.abort(blocked.refusal)

    def _rewritten(self, event: bytes, data: bytes) -> bytes:
        if data == b"[DONE]":
            return self._flushed(list(self._texts)) + event
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):  # whatever it is, it is a text
            text = data.decode("utf-8", "replace")
            whole = self._whole(text, False)
            return event if whole == text else sse.with_data(event, whole.encode())
        slots = list(_slots(body))
        ended = _ended(body, [key for key, _, _ in slots], self._texts)
        before = self._flushed([key for key in ended if key not in {slot[0] for slot in slots}])
        changes = [(path, text, self._fed(key, path, text, event, data, key in ended)) for key, path, text in slots]
        if not slots:
            changes = [(path, text, self._whole(text, is_json(path))) for path, text in _repeated(body)]
        return before + _changed(event, data, [(path, old, new) for path, old, new in changes if new != old])

    def _fed(self, key: Key, path: Path, text: str, event: bytes, data: bytes, ended: bool) -> str:
        known = self._texts.get(key)
        if known is None:
            if len(self._texts) >= MOST_TEXTS:
                reason = f"The provider's stream has more than {MOST_TEXTS} texts at once."
                raise Blocked(Refusal(502, "upstream_error", reason, type="api_error"))
            known = self._texts[key] = _Open(self._rewriter(is_json(path) or str(key[0]).endswith("arguments.delta")))
        known.event, known.data, known.path = event, data, path
        out = known.rewriter.feed(text)
        if ended:
            out += known.rewriter.end()
            del self._texts[key]
        return out

    def _flushed(self, keys: list[Key]) -> bytes:
        """Events for what is held, each like the last one of its text."""
        out = b""
        for key in keys:
            text = self._texts.pop(key)
            held = text.rewriter.end() if text.rewriter.holds else ""
            if held:
                document = Document(text.data)
                for _, path, _ in _slots(orjson.loads(text.data)):
                    document.set(path, held if path == text.path else "")
                document.remove(("usage",))
                out += sse.with_data(text.event, document.render())
        return out


def _changed(event: bytes, data: bytes, changes: list[tuple[Path, str, str]]) -> bytes:
    if not changes:
        return event
    path, old, new = changes[0]
    if len(changes) == 1 and b"\\" not in data and old.strip() != ":":
        # Without escapes a text stands there as it is: if it stands there once, that is the place. Only a colon may be
        # found between a name and its value, too.
        quoted = b'"%b"' % old.encode()
        if data.count(quoted) == 1:
            return sse.with_data(event, data.replace(quoted, orjson.dumps(new)))
    document = Document(data)
    for path, _, new in changes:
        document.set(path, new)
    return sse.with_data(event, document.render())


def _slots(body: dict[str, Any]) -> Iterator[tuple[Key, Path, str]]:
    """The parts of texts in an event: whose they are, where they stand."""
    choices = body.get("choices")
    if isinstance(choices, list):
        for at, choice in enumerate(choices):
            if isinstance(choice, dict):
                yield from _of_choice(choice, ("choices", at), choice.get("index", at))
        return
    delta, kind = body.get("delta"), body.get("type")
    if isinstance(delta, dict) and kind == "content_block_delta":
        for name in _CLAUDE:
            if isinstance(delta.get(name), str):
                yield ("block", body.get("index"), name), ("delta", name), delta[name]
    elif isinstance(delta, str) and isinstance(kind, str) and kind.endswith(".delta") and "audio.delta" not in kind:
        place = (
            kind,
            body.get("item_id"),
            body.get("output_index"),
            body.get("content_index"),
            body.get("summary_index"),
        )
        yield place, ("delta",), delta


def _of_choice(choice: dict[str, Any], path: Path, index: Any) -> Iterator[tuple[Key, Path, str]]:
    if isinstance(choice.get("text"), str):
        yield ("choice", str(index), "text"), (*path, "text"), choice["text"]
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return
    for name in _CHAT:
        if isinstance(delta.get(name), str):
            yield ("choice", str(index), name), (*path, "delta", name), delta[name]
    call = delta.get("function_call")
    if isinstance(call, dict) and isinstance(call.get("arguments"), str):
        place = (*path, "delta", "function_call", "arguments")
        yield ("choice", str(index), "function_call"), place, call["arguments"]
    for listed, inner in _LISTED:
        if listed in delta:
            yield from _of_list(delta, listed, inner, path, index)
    audio = delta.get("audio")
    if isinstance(audio, dict) and isinstance(audio.get("transcript"), str):
        yield ("choice", str(index), "transcript"), (*path, "delta", "audio", "transcript"), audio["transcript"]


def _of_list(
    delta: dict[str, Any], name: str, inner: tuple[str, ...], path: Path, index: Any
) -> Iterator[tuple[Key, Path, str]]:
    """One text of each element of a list, whose elements go on by their index."""
    listed = delta.get(name)
    for at, one in enumerate(listed if isinstance(listed, list) else ()):
        value = one
        for step in inner:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, str):
            place = str(one.get("index", at))
            yield ("choice", str(index), name, place, *inner), (*path, "delta", name, at, *inner), value


def _ended(body: dict[str, Any], here: list[Key], known: dict[Key, _Open]) -> list[Key]:
    """The texts that end with this event. In the APIs with typed events, all that does not go on has ended."""
    choices = body.get("choices")
    if isinstance(choices, list):
        done = {
            str(choice.get("index", at))
            for at, choice in enumerate(choices)
            if isinstance(choice, dict) and choice.get("finish_reason") is not None
        }
        return [key for key in dict.fromkeys((*known, *here)) if key[0] == "choice" and key[1] in done] if done else []
    if body.get("type") == "content_block_stop":
        return [key for key in known if key[0] == "block" and key[1] == body.get("index")]
    if here or body.get("type") in ("ping", "content_block_start", "response.in_progress"):
        return []
    return list(known)


def _repeated(body: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Texts in events that hold them whole: `response.output_text.done`, `response.completed`, and errors."""
    if "choices" not in body:
        for path, text in strings((), body):
            if path[-1] in _WHOLE or "input" in path:
                yield path, text
    elif isinstance(body["choices"], list):
        for path, text in strings(("choices",), body["choices"]):
            if "message" in path:
                yield path, text
