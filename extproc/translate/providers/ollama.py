"""Ollama's chat. https://github.com/ollama/ollama/blob/main/docs/api.md#generate-a-chat-completion"""

from collections.abc import Iterator

from extproc.translate import jsontext
from extproc.translate.failures import AnswerError, from_object, unreadable
from extproc.translate.jsontext import Object
from extproc.translate.losses import Losses, inexpressible, invalid
from extproc.translate.neutral import (
    CallPiece,
    CallStarted,
    Chat,
    Counted,
    Document,
    Ended,
    Event,
    Finished,
    Image,
    Part,
    Started,
    Text,
    TextPiece,
    Thinking,
    ThinkingPiece,
    Tool,
    ToolCall,
    Turn,
    Unexpressed,
    Usage,
)
from extproc.translate.providers.common import (
    Call,
    Dialect,
    Options,
    a_count,
    a_list,
    a_text,
    an_object,
    call_names,
    carry,
    lose_cache,
    lose_detail,
    lose_details,
    lose_single_call,
    parsed,
    split_results,
)
from extproc.translate.providers.functions import function_call, function_tool
from extproc.translate.wire.frames import Frame
from extproc.translate.wire.lines import JSONLines

_NAMES = {
    "max_tokens": "num_predict",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop": "stop",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
_LEVELS = ("low", "medium", "high")


def write(chat: Chat, model: str, options: Options) -> Call:
    """The request."""
    del options
    names = call_names(chat.turns)
    messages = [message for turn in chat.turns for message in _turn(turn, names, chat.losses)]
    body: Object = {"model": model, "messages": messages}
    settings: Object = {}
    carry(chat, _NAMES, settings)
    if settings:
        body["options"] = settings
    _tools(chat, body)
    if chat.format is not None:
        lose_details(chat.format, chat.losses, strict=True)
        body["format"] = "json" if chat.format.schema is None else chat.format.schema
    _think(chat, body)
    body["stream"] = chat.stream  # it streams when nothing is said
    return Call("/chat", body)


def _tools(chat: Chat, body: Object) -> None:
    """There is no choice of tools: none at all is not to offer any, and no call can be demanded."""
    lose_single_call(chat)
    if chat.choice is not None and chat.choice.kind in ("any", "tool"):
        chat.losses.param(chat.choice.at, "it cannot be told to call a tool")
    if chat.tools and chat.choice is not None and chat.choice.kind == "none":
        chat.losses.warn(f"{chat.choice.at} became a request without tools")
    elif chat.tools:
        body["tools"] = [_tool(tool, chat.losses) for tool in chat.tools]


def _think(chat: Chat, body: Object) -> None:
    reasoning = chat.reasoning
    if reasoning is None:
        return
    body["think"] = reasoning.on
    if reasoning.budget is not None and reasoning.on:
        chat.losses.warn(f"{reasoning.at} became thinking without a budget")
    elif reasoning.effort:
        level = reasoning.effort if reasoning.effort in _LEVELS else "low" if reasoning.effort == "minimal" else "high"
        if level != reasoning.effort:
            chat.losses.warn(f"{reasoning.at} became the level {level}")
        body["think"] = level


def _tool(tool: Tool, losses: Losses) -> Object:
    lose_cache(tool.cache, losses)
    if tool.strict:
        losses.hint(f"{tool.at}.strict")
    return function_tool(tool, tool.parameters)


def _turn(turn: Turn, names: dict[str, str], losses: Losses) -> Iterator[Object]:
    for part in turn.parts:
        lose_cache(part.cache, losses)
    results, rest = split_results(turn)
    for result in results:
        if result.call_id not in names:
            invalid(result.at, "the result of a tool call that is in the conversation")
        if result.is_error:
            losses.hint(f"{result.at}.is_error")
        message = _message("tool", list(result.parts), losses)
        yield message | {"tool_name": names[result.call_id], "tool_call_id": result.call_id}
    if rest or not results:
        yield _message(turn.role, rest, losses)


def _message(role: str, parts: list[Part], losses: Losses) -> Object:
    """Several texts become one with line breaks between them; images lie beside the text."""
    texts: list[str] = []
    thoughts: list[str] = []
    images: list[str] = []
    calls: list[Object] = []
    for part in parts:
        if isinstance(part, Text) or (isinstance(part, Document) and part.text):
            texts.append(part.text)
        elif isinstance(part, Image):
            images.append(_image(part, losses))
        elif isinstance(part, ToolCall):
            calls.append(function_call(part, part.arguments_object))
        elif isinstance(part, Thinking) and not part.redacted:
            thoughts.append(part.text)
        elif isinstance(part, Thinking):
            losses.hint(part.at)
        else:
            inexpressible(part.at, "it takes text and images")
    message: Object = {"role": role, "content": "\n".join(texts)}
    if thoughts:
        message["thinking"] = "\n".join(thoughts)
    if images:
        message["images"] = images
    if calls:
        message["tool_calls"] = calls
    return message


def _image(part: Image, losses: Losses) -> str:
    if part.url:
        inexpressible(part.at, "images by URL are not fetched; send the data")
    lose_detail(part, losses)
    return part.data


class Reader:
    """Reads an answer; the lines of a stream have the shape of whole answers."""

    def __init__(self) -> None:
        self._started = False
        self._calls = 0

    def whole(self, answer: Object) -> Iterator[Event]:
        if answer.get("error"):
            raise AnswerError(from_object(answer))
        if not isinstance(answer.get("message"), dict):
            raise unreadable("it has no message")
        yield from self._answer(answer)

    def frame(self, frame: Frame) -> Iterator[Event]:
        yield from self._answer(parsed(frame))

    def _answer(self, answer: Object) -> Iterator[Event]:
        if not self._started:
            self._started = True
            yield Started("", a_text(answer.get("model")))
        message = an_object(answer.get("message"))
        if thought := a_text(message.get("thinking")):
            yield ThinkingPiece(thought)
        if text := a_text(message.get("content")):
            yield TextPiece(text)
        for call in a_list(message.get("tool_calls")):
            yield from self._call(an_object(call))
        if answer.get("logprobs"):
            yield Unexpressed("logprobs")
        if answer.get("done") is True:
            yield Counted(Usage(a_count(answer.get("prompt_eval_count")), a_count(answer.get("eval_count"))))
            if answer.get("done_reason") == "length":
                yield Finished("length")
            else:
                yield Finished("tool_calls" if self._calls else "stop")
            yield Ended()

    def _call(self, call: Object) -> Iterator[Event]:
        function = an_object(call.get("function"))
        self._calls += 1
        yield CallStarted(a_text(call.get("id")), a_text(function.get("name")))
        yield CallPiece(jsontext.text(an_object(function.get("arguments"))))


DIALECT = Dialect("/api", write, Reader, JSONLines, "application/x-ndjson")
