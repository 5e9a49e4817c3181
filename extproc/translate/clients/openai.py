"""Requests of OpenAI's chat completions -> the neutral form.

https://platform.openai.com/docs/api-reference/chat/create. Read beside it are what other servers made common and
clients send: `cache_control` on content (OpenRouter), `reasoning_content` and `reasoning_details` on assistant messages
(DeepSeek, OpenRouter), `extra_content.google.thought_signature` on tool calls (Gemini), `top_k`.
"""

import re

from extproc.translate.clients.marks import cache_mark
from extproc.translate.fields import Fields
from extproc.translate.jsontext import Object
from extproc.translate.losses import Losses, inexpressible, invalid
from extproc.translate.neutral import (
    Audio,
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

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w=.+-]+)*?)(;base64)?,", re.ASCII)
# Values that say what would be done anyway.
_NOTHING_ASKED: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "store": (False,),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
}
_HINTS = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)


def read(body: Object, losses: Losses) -> Chat:
    """The request. Raises RefusedError for one that is no chat request."""
    fields = Fields(body, "", losses)
    fields.take("model")  # the target's name is used
    turns = tuple(_turn(item, losses) for item in fields.each("messages"))
    if not turns:
        invalid("messages", "a list of at least one message")
    stream = fields.flag("stream") or False
    options = fields.within("stream_options")
    usage_asked = False
    if options is not None:
        usage_asked = options.flag("include_usage") or False
        options.hint("include_obfuscation")
        options.done()
    parallel = fields.flag("parallel_tool_calls")
    return Chat(
        turns=turns,
        losses=losses,
        stream=stream,
        usage_asked=usage_asked,
        tools=_tools(fields, losses),
        choice=_choice(fields, losses),
        parallel=None if parallel is None else Flag(parallel, "parallel_tool_calls"),
        format=_format(fields, losses),
        reasoning=_reasoning(fields),
        settings=_settings(fields),
    )


def _settings(fields: Fields) -> dict[str, Setting]:
    settings = {}
    for name in ("max_tokens", "max_completion_tokens"):  # the second is the newer name
        limit = fields.whole(name)
        if limit is not None:
            settings["max_tokens"] = Setting(limit, name)
    stop = fields.take("stop")
    if stop is not None and stop != []:
        stops = [stop] if isinstance(stop, str) else stop
        if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
            invalid("stop", "a string or a list of strings")
        settings["stop"] = Setting(stops, "stop")
    for name, value in fields.rest().items():
        if not _asks_nothing(name, value):
            settings[name] = Setting(value, name, name in _HINTS)
    return settings


def _asks_nothing(name: str, value: object) -> bool:
    nothings = _NOTHING_ASKED.get(name, ())
    return any(value == nothing and isinstance(value, bool) == isinstance(nothing, bool) for nothing in nothings)


def _reasoning(fields: Fields) -> Reasoning | None:
    effort = fields.text("reasoning_effort")
    if effort is None:
        return None
    return Reasoning("reasoning_effort", effort != "none", "" if effort == "none" else effort)


def _format(fields: Fields, losses: Losses) -> Format | None:
    found = fields.within("response_format")
    if found is None:
        return None
    kind = found.need_text("type")
    if kind == "json_object":
        found.done()
        return Format(None, "response_format")
    if kind != "json_schema":
        if kind != "text":
            losses.param("response_format", f"it has the unknown type '{kind[:40]}'")
        return None
    inner = found.within("json_schema")
    found.done()
    if inner is None:
        invalid("response_format.json_schema", "an object")
    schema = inner.object("schema")
    result = Format(
        {} if schema is None else schema,
        "response_format",
        inner.text("name") or "",
        inner.text("description") or "",
        inner.flag("strict"),
    )
    inner.done()
    return result


def _tools(fields: Fields, losses: Losses) -> tuple[Tool, ...]:
    tools = []
    for found in fields.each("tools"):
        if found.need_text("type") != "function":
            losses.param(found.at, "only function tools can be translated")
            continue
        function = found.within("function")
        if function is None:
            invalid(found.place("function"), "an object")
        tools.append(_tool(function, found.at, cache_mark(found, losses)))
        found.done()
    older = [_tool(function, function.at) for function in fields.each("functions")]
    return (*tools, *older)


def _tool(function: Fields, at: str, cache: Cache | None = None) -> Tool:
    tool = Tool(
        function.need_text("name"),
        function.text("description"),
        function.object("parameters"),
        function.flag("strict"),
        at,
        cache,
    )
    function.done()
    return tool


def _choice(fields: Fields, losses: Losses) -> Choice | None:
    for name in ("tool_choice", "function_call"):
        value = fields.take(name)
        if value is None:
            continue
        if value == "auto":
            return Choice("auto", name)
        if value == "none":
            return Choice("none", name)
        if value == "required":
            return Choice("any", name)
        found = Fields(value, name, losses)
        kind = found.text("type") or "function"
        function = found.within("function") if name == "tool_choice" else found
        if kind == "function" and function is not None:
            return Choice("tool", name, function.need_text("name"))
        losses.param(name, f"it has the type '{kind[:40]}'")
    return None


def _turn(fields: Fields, losses: Losses) -> Turn:
    at = fields.at
    role = fields.need_text("role")
    if role in ("tool", "function"):
        call_id = fields.need_text("tool_call_id" if role == "tool" else "name")
        content = _texts(fields, losses)
        turn = Turn("user", (ToolResult(call_id, content, at, cache=cache_mark(fields, losses)),), at)
    elif role == "assistant":
        turn = Turn("assistant", _assistant(fields, losses), at)
    elif role in ("system", "developer"):
        turn = Turn("system", _texts(fields, losses), at)
    elif role == "user":
        turn = Turn("user", _content(fields, losses), at)
    else:
        invalid(fields.place("role"), "system, developer, user, assistant or tool")
    fields.hint("name")
    fields.done()
    return turn


def _texts(fields: Fields, losses: Losses) -> tuple[Text, ...]:
    parts = _content(fields, losses)
    for part in parts:
        if not isinstance(part, Text):
            inexpressible(part.at, "only text is allowed in this role")
    return tuple(part for part in parts if isinstance(part, Text))


def _content(fields: Fields, losses: Losses) -> tuple[Part, ...]:
    at = fields.place("content")
    content = fields.take("content")
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content, at, cache_mark(fields, losses)),)
    if not isinstance(content, list):
        invalid(at, "a string or a list of parts")
    return tuple(_part(item, f"{at}[{i}]", losses) for i, item in enumerate(content))


def _part(item: object, at: str, losses: Losses) -> Part:
    fields = Fields(item, at, losses)
    kind = fields.need_text("type")
    cache = cache_mark(fields, losses)
    fields.hint("prompt_cache_breakpoint")
    part: Part
    if kind in ("text", "refusal"):
        part = Text(fields.need_text(kind), at, cache)
    elif kind == "image_url":
        part = _image(fields.take("image_url"), at, cache, losses)
    elif kind == "input_audio":
        audio = Fields(fields.take("input_audio"), fields.place("input_audio"), losses)
        part = Audio(at, audio.need_text("data"), audio.need_text("format"), cache)
        audio.done()
    elif kind == "file":
        part = _file(Fields(fields.take("file"), fields.place("file"), losses), at, cache)
    else:
        inexpressible(at, f"content of type '{kind[:40]}' is not known")
    fields.done()
    return part


def _image(value: object, at: str, cache: Cache | None, losses: Losses) -> Image:
    if isinstance(value, str):  # some servers take the URL itself
        value = {"url": value}
    fields = Fields(value, f"{at}.image_url", losses)
    url, detail = fields.need_text("url"), fields.text("detail") or ""
    fields.done()
    if not url.startswith("data:"):
        return Image(at, url=url, detail=detail, cache=cache)
    media_type, data = data_url(url, f"{at}.image_url.url")
    return Image(at, data=data, media_type=media_type, detail=detail, cache=cache)


def _file(fields: Fields, at: str, cache: Cache | None) -> Document:
    if fields.take("file_id") is not None:
        inexpressible(f"{at}.file.file_id", "the file lies with another provider; send its data")
    url, name = fields.need_text("file_data"), fields.text("filename") or ""
    fields.done()
    if url.startswith(("http://", "https://")):
        return Document(at, url=url, name=name, cache=cache)
    media_type, data = data_url(url, f"{at}.file.file_data")
    return Document(at, data=data, media_type=media_type, name=name, cache=cache)


def data_url(url: str, at: str) -> tuple[str, str]:
    """Media type and base64 data of a data URL. Refuses other encodings."""
    found = _DATA_URL.match(url)
    if found is None or not found[3] or not found[1]:
        invalid(at, "a data URL with a media type and base64 data")
    return found[1].lower(), url[found.end() :]


def _assistant(fields: Fields, losses: Losses) -> tuple[Part, ...]:
    parts: list[Part] = [*_thoughts(fields, losses), *_content(fields, losses)]
    refusal = fields.text("refusal")
    if refusal:
        parts.append(Text(refusal, fields.place("refusal")))
    if fields.take("audio") is not None:
        inexpressible(fields.place("audio"), "the audio lies with another provider")
    parts += [_call(call) for call in fields.each("tool_calls")]
    function = fields.within("function_call")
    if function is not None:  # the older form; its result names the function instead of the call
        name = function.need_text("name")
        parts.append(ToolCall(name, name, function.need_text("arguments"), fields.place("function_call")))
        function.done()
    return tuple(parts)


def _thoughts(fields: Fields, losses: Losses) -> list[Thinking]:
    details = list(fields.each("reasoning_details"))
    plain = fields.text("reasoning_content"), fields.text("reasoning")
    if not details:
        named = ("reasoning_content", "reasoning")
        return [Thinking(text, fields.place(name)) for text, name in zip(plain, named, strict=True) if text][:1]
    thoughts: list[Thinking] = []
    for detail in details:
        at = detail.at
        kind = detail.need_text("type")
        if kind == "reasoning.text":
            thoughts.append(Thinking(detail.text("text") or "", at, detail.text("signature") or ""))
        elif kind == "reasoning.encrypted":
            thoughts.append(Thinking("", at, redacted=detail.need_text("data")))
        else:
            losses.hint(at)
    return thoughts


def _call(fields: Fields) -> ToolCall:
    if (fields.text("type") or "function") != "function":
        inexpressible(fields.at, "only calls of functions can be translated")
    fields.take("index")  # some clients send the pieces of a stream back as they came
    function = fields.within("function")
    if function is None:
        invalid(fields.place("function"), "an object")
    extra = fields.object("extra_content") or {}
    google = extra.get("google")
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    call = ToolCall(
        fields.need_text("id"),
        function.need_text("name"),
        function.text("arguments") or "",
        fields.at,
        signature if isinstance(signature, str) else "",
    )
    function.done()
    fields.done()
    return call
