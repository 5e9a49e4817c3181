"""Requests of Anthropic's messages -> the neutral form. https://docs.claude.com/en/api/messages"""

from collections.abc import Callable
from typing import Any, Literal

from extproc.translate.clients.marks import cache_mark
from extproc.translate.fields import Fields
from extproc.translate.jsontext import Object
from extproc.translate.losses import Losses, inexpressible, invalid
from extproc.translate.neutral import (
    Cache,
    Chat,
    Choice,
    Document,
    Flag,
    Format,
    Image,
    Part,
    Reasoning,
    Setting,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)

_ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
}
_HINTS = ("cache_control", "service_tier", "inference_geo", "diagnostics", "user_profile_id", "workspace_id")


def read(body: Object, losses: Losses) -> Chat:
    """The request. Raises RefusedError for one that is no messages request."""
    fields = Fields(body, "", losses)
    fields.take("model")  # the target's name is used
    turns = [_turn(item, losses) for item in fields.each("messages")]
    if not turns:
        invalid("messages", "a list of at least one message")
    system = _content(fields, "system", losses)
    if system:
        turns.insert(0, Turn("system", system, "system"))
    stream = fields.flag("stream") or False
    choice, parallel = _choice(fields)
    output = fields.within("output_config")
    return Chat(
        turns=tuple(turns),
        losses=losses,
        stream=stream,
        usage_asked=True,
        tools=_tools(fields, losses),
        choice=choice,
        parallel=parallel,
        format=_format(output, losses),
        reasoning=_reasoning(fields, output, losses),
        settings=_settings(fields),
    )


def _settings(fields: Fields) -> dict[str, Setting]:
    settings = {}
    limit = fields.whole("max_tokens")
    if limit is None:
        invalid("max_tokens", "a whole number")
    settings["max_tokens"] = Setting(limit, "max_tokens")
    stops = fields.items("stop_sequences")
    if stops:
        if not all(isinstance(one, str) for one in stops):
            invalid("stop_sequences", "a list of strings")
        settings["stop"] = Setting(stops, "stop_sequences")
    metadata = fields.within("metadata")
    if metadata is not None:
        user = metadata.text("user_id")
        if user is not None:
            settings["user"] = Setting(user, "metadata.user_id", hint=True)
        metadata.done()
    if fields.take("service_tier") not in (None, "auto"):
        settings["service_tier"] = Setting(None, "service_tier", hint=True)
    for name in _HINTS:
        fields.hint(name)
    for name, value in fields.rest().items():
        settings[name] = Setting(value, name)
    return settings


def _format(output: Fields | None, losses: Losses) -> Format | None:
    found = output.within("format") if output is not None else None
    if found is None:
        return None
    if found.need_text("type") != "json_schema":
        losses.param(found.at, "only the type json_schema can be translated")
        return None
    result = Format(found.object("schema") or {}, found.at, "answer", strict=True)
    found.done()
    return result


def _reasoning(fields: Fields, output: Fields | None, losses: Losses) -> Reasoning | None:
    effort = output.text("effort") if output is not None else None
    if output is not None:
        output.done()
    thinking = fields.within("thinking")
    if thinking is None:
        return Reasoning("output_config.effort", on=True, effort=effort) if effort else None
    kind = thinking.need_text("type")
    budget = thinking.whole("budget_tokens")
    thinking.hint("display")
    thinking.done()
    if kind not in ("enabled", "adaptive", "disabled"):
        losses.param("thinking", f"it has the type '{kind[:40]}'")
        return None
    return Reasoning("thinking", kind != "disabled", effort or "", budget)


def _tools(fields: Fields, losses: Losses) -> tuple[Tool, ...]:
    tools = []
    for found in fields.each("tools"):
        if (found.text("type") or "custom") != "custom":
            losses.param(found.at, "only the client's own tools can be translated")
            continue
        cache = cache_mark(found, losses)
        for name in ("eager_input_streaming", "defer_loading", "allowed_callers", "input_examples"):
            found.hint(name)
        name, description = found.need_text("name"), found.text("description")
        tools.append(Tool(name, description, found.object("input_schema"), found.flag("strict"), found.at, cache))
        found.done()
    return tuple(tools)


def _choice(fields: Fields) -> tuple[Choice | None, Flag | None]:
    found = fields.within("tool_choice")
    if found is None:
        return None, None
    kind = found.need_text("type")
    single = found.flag("disable_parallel_tool_use")
    parallel = None if single is None else Flag(not single, "tool_choice.disable_parallel_tool_use")
    name = found.text("name") or ""
    found.done()
    if kind == "tool":
        return Choice("tool", "tool_choice", name), parallel
    if kind == "any":
        return Choice("any", "tool_choice"), parallel
    if kind == "none":
        return Choice("none", "tool_choice"), parallel
    if kind != "auto":
        invalid("tool_choice.type", "auto, any, tool or none")
    return Choice("auto", "tool_choice"), parallel


def _turn(fields: Fields, losses: Losses) -> Turn:
    role = fields.need_text("role")
    parts = _content(fields, "content", losses)
    fields.done()
    if role not in _ROLES:
        invalid(fields.place("role"), "user or assistant")
    return Turn(_ROLES[role], parts, fields.at)


def _content(fields: Fields, name: str, losses: Losses) -> tuple[Part, ...]:
    at = fields.place(name)
    content = fields.take(name)
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content, at),) if content else ()
    if not isinstance(content, list):
        invalid(at, "a string or a list of blocks")
    return tuple(_block(Fields(item, f"{at}[{i}]", losses), losses) for i, item in enumerate(content))


def _block(fields: Fields, losses: Losses) -> Part:
    kind = fields.need_text("type")
    read_one = _BLOCKS.get(kind)
    if read_one is None:
        inexpressible(fields.at, f"blocks of type '{kind[:40]}' are known to Anthropic only")
    part = read_one(fields, cache_mark(fields, losses), losses)
    fields.done()
    return part


def _text(fields: Fields, cache: Cache | None, _: Losses) -> Part:
    fields.hint("citations")
    return Text(fields.need_text("text"), fields.at, cache)


def _image(fields: Fields, cache: Cache | None, losses: Losses) -> Part:
    fields.hint("transformations")
    source = Fields(fields.take("source"), fields.place("source"), losses)
    kind = source.need_text("type")
    if kind == "url":
        image = Image(fields.at, url=source.need_text("url"), cache=cache)
    elif kind == "base64":
        data, media_type = source.need_text("data"), source.need_text("media_type")
        image = Image(fields.at, data=data, media_type=media_type, cache=cache)
    else:
        inexpressible(source.at, "the file lies with another provider; send its data")
    source.done()
    return image


def _document(fields: Fields, cache: Cache | None, losses: Losses) -> Part:
    source = Fields(fields.take("source"), fields.place("source"), losses)
    name = fields.text("title") or ""
    fields.hint("citations")
    kind = source.need_text("type")
    media_type = source.text("media_type") or ""
    if kind == "url":
        document = Document(fields.at, url=source.need_text("url"), name=name, cache=cache)
    elif kind == "base64":
        data = source.need_text("data")
        document = Document(fields.at, data=data, media_type=media_type, name=name, cache=cache)
    elif kind == "text":
        text = source.need_text("data")
        document = Document(fields.at, text=text, media_type=media_type, name=name, cache=cache)
    else:
        inexpressible(source.at, f"documents from '{kind[:40]}' are known to Anthropic only")
    source.done()
    return document


def _thinking(fields: Fields, _: Cache | None, __: Losses) -> Part:
    return Thinking(fields.need_text("thinking"), fields.at, fields.text("signature") or "")


def _redacted(fields: Fields, _: Cache | None, __: Losses) -> Part:
    return Thinking("", fields.at, redacted=fields.need_text("data"))


def _tool_use(fields: Fields, cache: Cache | None, _: Losses) -> Part:
    fields.hint("caller")
    arguments = fields.object("input") or {}
    return ToolCall(fields.need_text("id"), fields.need_text("name"), arguments, fields.at, cache=cache)


def _tool_result(fields: Fields, cache: Cache | None, losses: Losses) -> Part:
    parts = []
    for part in _content(fields, "content", losses):
        if not isinstance(part, Text | Image | Document):
            inexpressible(part.at, "a tool's result is text, images and documents")
        parts.append(part)
    failed = fields.flag("is_error") or False
    return ToolResult(fields.need_text("tool_use_id"), tuple(parts), fields.at, failed, cache)


_BLOCKS: dict[str, Callable[[Fields, Any, Losses], Part]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "thinking": _thinking,
    "redacted_thinking": _redacted,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
}
