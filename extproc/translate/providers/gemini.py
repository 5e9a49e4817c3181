"""Google's Gemini API. https://ai.google.dev/api/generate-content, /gemini-api/docs/thought-signatures"""

import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from extproc.translate import jsontext
from extproc.translate.failures import AnswerError, Failure, from_object, unreadable
from extproc.translate.jsontext import Object
from extproc.translate.losses import Losses, invalid
from extproc.translate.neutral import (
    Audio,
    CallPiece,
    CallStarted,
    Chat,
    Counted,
    Document,
    Event,
    Finished,
    Image,
    Part,
    Reason,
    Started,
    Text,
    TextPiece,
    Thinking,
    ThinkingPiece,
    Tool,
    ToolCall,
    ToolResult,
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
    alternating,
    an_object,
    budget_of,
    call_names,
    carry,
    effort_of,
    lose_cache,
    lose_detail,
    lose_details,
    lose_single_call,
    parsed,
    system_and_turns,
)
from extproc.translate.wire.frames import Frame
from extproc.translate.wire.sse import Events

_NAMES = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "stop": "stopSequences",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
# Models before Gemini 3 think by a budget, and do not ask for the signatures of their calls.
_BY_BUDGET = re.compile(r"gemini-(1|2)[.-]")
_MOST_BUDGET = 24_576
_LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH", "max": "HIGH"}
# Google's own word for calls that come from elsewhere and bear no signature.
_NO_SIGNATURE = "skip_thought_signature_validator"
_MEDIA_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "pdf": "application/pdf",
    "txt": "text/plain",
}
_COUNTS = (
    "promptTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
)
_BLOCKED = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "MODEL_ARMOR",
        "LANGUAGE",
    }
)
# Reasons that say that the model failed; what it said until then is no answer.
_FAILED = frozenset({"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE"})


def write(chat: Chat, model: str, options: Options) -> Call:
    """The request; the model is in the path."""
    del options
    system, turns = system_and_turns(chat)
    names, losses = call_names(turns), chat.losses
    signed = _BY_BUDGET.search(model) is None
    body: Object = {}
    if system:
        body["systemInstruction"] = {"parts": _parts(system, names, losses, signed=False)}
    body["contents"] = [_content(turn, names, losses, signed=signed) for turn in alternating(turns)]
    if chat.tools:
        body["tools"] = [{"functionDeclarations": [_tool(tool, losses) for tool in chat.tools]}]
        _choose(chat, body)
    lose_single_call(chat)
    config: Object = {}
    carry(chat, _NAMES, config)
    if chat.format is not None:
        config["responseMimeType"] = "application/json"
        lose_details(chat.format, losses, strict=True)
        if chat.format.schema is not None:
            config["responseJsonSchema"] = chat.format.schema
    if chat.reasoning is not None:
        config["thinkingConfig"] = _thinking(chat, model, by_budget=not signed)
    if config:
        body["generationConfig"] = config
    verb = "streamGenerateContent?alt=sse" if chat.stream else "generateContent"
    name = model if "/" in model else f"models/{model}"
    return Call(f"/{quote(name, safe='/-._~')}:{verb}", body)


def _choose(chat: Chat, body: Object) -> None:
    """Which tools to call. Strict tools have a mode: calls that follow their schemas, or text."""
    choice = chat.choice
    strict = any(tool.strict for tool in chat.tools)
    if choice is None and not strict:
        return
    kind = "auto" if choice is None else choice.kind
    mode = {"auto": "VALIDATED" if strict else "AUTO", "none": "NONE", "any": "ANY", "tool": "ANY"}[kind]
    config: Object = {"mode": mode}
    if choice is not None and choice.kind == "tool":
        config["allowedFunctionNames"] = [choice.name]
    body["toolConfig"] = {"functionCallingConfig": config}


def _thinking(chat: Chat, model: str, *, by_budget: bool) -> Object:
    reasoning, losses = chat.reasoning, chat.losses
    if reasoning is None:
        return {}
    if not reasoning.on:
        if by_budget:
            return {"thinkingBudget": 0}
        losses.warn(f"{reasoning.at} became the lowest level: the model cannot stop thinking")
        return {"thinkingLevel": _lowest(model)}
    if by_budget or reasoning.budget is not None:
        budget = budget_of(reasoning, losses)
        return {"includeThoughts": True, "thinkingBudget": min(budget, _MOST_BUDGET) if by_budget else budget}
    effort = effort_of(reasoning, losses)
    if effort in ("xhigh", "max"):
        losses.warn(f"{reasoning.at} became the level high, the highest")
    level = _LEVELS.get(effort, "MEDIUM")
    if level == "MINIMAL" and _lowest(model) != level:
        losses.warn(f"{reasoning.at} became the level low, the lowest")
        level = _lowest(model)
    return {"includeThoughts": True, "thinkingLevel": level}


def _lowest(model: str) -> str:
    """https://ai.google.dev/gemini-api/docs/thinking: the Pro models have no level below low."""
    return "LOW" if "-pro" in model else "MINIMAL"


def _tool(tool: Tool, losses: Losses) -> Object:
    found: Object = {"name": tool.name}
    if tool.description is not None:
        found["description"] = tool.description
    if tool.schema is not None:
        found["parametersJsonSchema"] = tool.schema
    lose_cache(tool.cache, losses)
    return found


def _content(turn: Turn, names: dict[str, str], losses: Losses, *, signed: bool) -> Object:
    role = "model" if turn.role == "assistant" else "user"
    return {"role": role, "parts": _parts(turn.parts, names, losses, signed=signed)}


def _parts(parts: Iterable[Part], names: dict[str, str], losses: Losses, *, signed: bool) -> list[Object]:
    found: list[Object] = []
    first_call = True
    for part in parts:
        lose_cache(part.cache, losses)
        if isinstance(part, Thinking):
            losses.hint(part.at)
        elif isinstance(part, ToolCall):
            found.append(_call(part, sign=signed and first_call))
            first_call = False
        elif isinstance(part, ToolResult):
            found += _result(part, names, losses)
        else:
            found.append(_part(part, losses))
    return found or [{"text": ""}]


def _call(part: ToolCall, *, sign: bool) -> Object:
    """Of parallel calls only the first bears a signature."""
    call: Object = {"functionCall": {"id": part.id, "name": part.name, "args": part.arguments_object}}
    if part.signature or sign:
        call["thoughtSignature"] = part.signature or _NO_SIGNATURE
    return call


def _result(part: ToolResult, names: dict[str, str], losses: Losses) -> Iterator[Object]:
    name = names.get(part.call_id)
    if name is None:
        invalid(part.at, "the result of a tool call that is in the conversation")
    key = "error" if part.is_error else "output"
    yield {"functionResponse": {"id": part.call_id, "name": name, "response": {key: part.text}}}
    for inner in part.parts:
        lose_cache(inner.cache, losses)
        if not isinstance(inner, Text):
            yield _part(inner, losses)


def _part(part: Text | Image | Audio | Document, losses: Losses) -> Object:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, Audio):
        return {"inlineData": {"mimeType": f"audio/{part.format}", "data": part.data}}
    if isinstance(part, Document):
        if part.text:
            return {"text": part.text}
        if part.name:
            losses.hint(f"{part.at}.name")
    else:
        lose_detail(part, losses)
    if not part.url:
        return {"inlineData": {"mimeType": part.media_type, "data": part.data}}
    data: Object = {"fileUri": part.url}
    media_type = _MEDIA_TYPES.get(part.url.partition("?")[0].rpartition(".")[2].lower())
    if media_type is not None:
        data["mimeType"] = media_type
    return {"fileData": data}


class Reader:
    """Reads an answer; the frames of a stream have the shape of whole answers."""

    def __init__(self) -> None:
        self._started = False
        self._calls = 0
        self._usage: Object = {}

    def whole(self, answer: Object) -> Iterator[Event]:
        if answer.get("error"):
            raise AnswerError(from_object(answer))
        finished = False
        for event in self._answer(answer):
            finished = finished or isinstance(event, Finished)
            yield event
        if not finished:
            raise unreadable("it has no candidate that is finished")

    def frame(self, frame: Frame) -> Iterator[Event]:
        yield from self._answer(parsed(frame))

    def _answer(self, answer: Object) -> Iterator[Event]:
        usage = answer.get("usageMetadata")
        if isinstance(usage, dict):
            self._usage |= {name: usage[name] for name in _COUNTS if name in usage}
            yield Counted(_usage(self._usage))
        if not self._started:
            self._started = True
            yield Started(a_text(answer.get("responseId")), a_text(answer.get("modelVersion")))
        blocked = an_object(answer.get("promptFeedback")).get("blockReason")
        if blocked:
            yield Finished("content_filter")
        for candidate in a_list(answer.get("candidates"))[:1]:
            yield from self._candidate(an_object(candidate))

    def _candidate(self, candidate: Object) -> Iterator[Event]:
        for part in a_list(an_object(candidate.get("content")).get("parts")):
            yield from self._part(an_object(part))
        if candidate.get("groundingMetadata"):
            yield Unexpressed("groundingMetadata")
        reason = a_text(candidate.get("finishReason"))
        if reason in _FAILED:
            raise AnswerError(Failure(502, f"The model failed: {reason}."))
        if reason and reason != "FINISH_REASON_UNSPECIFIED":
            yield Finished(self._reason(reason))

    def _reason(self, reason: str) -> Reason:
        if reason == "MAX_TOKENS":
            return "length"
        if reason in _BLOCKED:
            return "content_filter"
        return "tool_calls" if self._calls else "stop"

    def _part(self, part: Object) -> Iterator[Event]:
        text, call = part.get("text"), part.get("functionCall")
        if isinstance(text, str):
            if text:
                yield ThinkingPiece(text) if part.get("thought") is True else TextPiece(text)
        elif isinstance(call, dict):
            self._calls += 1
            yield CallStarted(a_text(call.get("id")), a_text(call.get("name")), a_text(part.get("thoughtSignature")))
            yield CallPiece(jsontext.text(an_object(call.get("args"))))
        else:
            known = ("inlineData", "executableCode", "codeExecutionResult", "fileData")
            what = next((name for name in known if name in part), "")
            if what:
                yield Unexpressed(what)


def _usage(usage: Object) -> Usage:
    """Thinking is counted beside the candidates, cached tokens inside of the prompt."""
    thought = a_count(usage.get("thoughtsTokenCount"))
    prompt = a_count(usage.get("promptTokenCount")) + a_count(usage.get("toolUsePromptTokenCount"))
    cached = a_count(usage.get("cachedContentTokenCount"))
    return Usage(prompt, a_count(usage.get("candidatesTokenCount")) + thought, cached, 0, thought)


DIALECT = Dialect("/v1beta", write, Reader, Events, "text/event-stream")
