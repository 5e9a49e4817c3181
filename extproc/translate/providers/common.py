"""What the provider modules share: their interface, and small steps that several of them need."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from extproc.translate import jsontext
from extproc.translate.failures import AnswerError, from_object, unreadable
from extproc.translate.jsontext import Object
from extproc.translate.losses import Losses, inexpressible
from extproc.translate.neutral import (
    Cache,
    Chat,
    Event,
    Format,
    Image,
    Part,
    Reasoning,
    Setting,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from extproc.translate.wire.frames import Frame, Framer

_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")
MIB = 1024 * 1024


@dataclass(frozen=True)
class Options:
    """How to translate. `base_path` is the path of the provider's API, when it is not the usual one."""

    unsupported: Literal["refuse", "drop"] = "refuse"  # parameters that the provider has no place for
    base_path: str | None = None
    api_version: str = ""  # Azure: the paths of deployments with this `api-version`; else its v1 API
    max_tokens: int = 8192  # for providers that need a limit, when the client set none
    usage_always: bool = False  # streams tell usage even when the client did not ask
    max_frame: int = 16 * MIB  # bytes of one event in an answer
    stream_usage: bool = True  # OpenAI-compatible: streams may be asked for their usage
    embedding_purpose: str = "search_document"  # Cohere's and Gemini's embeddings depend on what they are for


class Call(NamedTuple):
    """A request in a provider's dialect; `path` follows the base path."""

    path: str
    body: Object
    headers: tuple[tuple[str, str], ...] = ()


class Reader(Protocol):
    """Reads one answer of a provider into events. Raises AnswerError for what is not its dialect, and for errors."""

    def whole(self, answer: Object) -> Iterable[Event]:
        """The events of an answer that came in one piece."""

    def frame(self, frame: Frame) -> Iterable[Event]:
        """The events of one frame of a stream."""


class Dialect(NamedTuple):
    """A provider's API."""

    base_path: str
    write: Callable[[Chat, str, Options], Call]
    reader: Callable[[], Reader]
    framer: Callable[[int], Framer]
    stream_type: str  # the media type of its streams


def carry(chat: Chat, names: Mapping[str, str], into: Object, done: Iterable[str] = ()) -> None:
    """Puts each setting where `names` says; the others, except those `done`, are lost by name."""
    done = frozenset(done)
    for name, setting in chat.settings.items():
        if name in names:
            into[names[name]] = setting.value
        elif name not in done:
            lose(chat.losses, setting)


def lose(losses: Losses, setting: Setting) -> None:
    if setting.hint:
        losses.hint(setting.at)
    else:
        losses.param(setting.at)


def lose_details(form: Format, losses: Losses, *, strict: bool) -> None:
    """For providers that take a bare schema, which they follow strictly or as well as they can. Its name has no use."""
    if form.description:
        losses.hint(f"{form.at}.json_schema.description")
    if form.strict is not None and form.strict != strict:
        losses.hint(f"{form.at}.json_schema.strict")


def lose_cache(cache: Cache | None, losses: Losses) -> None:
    """For providers that cache by themselves, or not at all."""
    if cache is not None:
        losses.hint(cache.at)


def lose_detail(image: Image, losses: Losses) -> None:
    """For providers that choose the resolution themselves."""
    if image.detail not in ("", "auto"):
        losses.hint(f"{image.at}.image_url.detail")


def lose_single_call(chat: Chat) -> None:
    """For providers that cannot be told to call one tool at a time."""
    if chat.parallel is not None and not chat.parallel.value and chat.tools:
        chat.losses.param(chat.parallel.at, "it cannot be told to call one tool at a time")


def system_and_turns(chat: Chat) -> tuple[list[Part], list[Turn]]:
    """The system prompt apart from the conversation, which must not be empty.

    Instructions in its midst move to the front, with a warning.
    """
    system: list[Part] = []
    turns: list[Turn] = []
    for turn in chat.turns:
        if turn.role != "system":
            turns.append(turn)
            continue
        if turns:
            chat.losses.warn(f"{turn.at} moved to the system prompt")
        system.extend(turn.parts)
    if not turns:
        inexpressible("messages", "it needs a message that is no system prompt")
    return system, turns


def alternating(turns: Iterable[Turn]) -> list[Turn]:
    """Neighbours of the same role as one turn: results of parallel calls must come together."""
    merged: list[Turn] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role:
            merged[-1] = merged[-1]._replace(parts=(*merged[-1].parts, *turn.parts))
        else:
            merged.append(turn)
    return merged


def split_results(turn: Turn) -> tuple[list[ToolResult], list[Part]]:
    """A user turn's tool results and the rest, for dialects where results are messages of their own."""
    results = [part for part in turn.parts if isinstance(part, ToolResult)]
    return results, [part for part in turn.parts if not isinstance(part, ToolResult)]


def call_names(turns: Iterable[Turn]) -> dict[str, str]:
    """The name of the function of each tool call in the conversation, by the call's id."""
    return {part.id: part.name for turn in turns for part in turn.parts if isinstance(part, ToolCall)}


def safe_id(call_id: str) -> str:
    """The id of a tool call as Anthropic and Bedrock take it; other servers make ids of other characters, too."""
    return _NOT_IN_IDS.sub("_", call_id)[:64] or "call"


def plain(parts: Iterable[Part]) -> str | None:
    """The text, when it is a single unmarked text; the usual case, which dialects write as a string."""
    found = tuple(parts)
    if len(found) == 1 and isinstance(found[0], Text) and found[0].cache is None:
        return found[0].text
    return None


def cache_control(cache: Cache) -> Object:
    """The mark as Anthropic writes it, and OpenRouter after it."""
    return {"type": "ephemeral", "ttl": cache.ttl} if cache.ttl else {"type": "ephemeral"}


# Tokens for a level of effort, as Google's compatibility layer sets them
# (https://ai.google.dev/gemini-api/docs/openai#thinking), continued upwards.
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 32_768, "max": 32_768}


def budget_of(reasoning: Reasoning, losses: Losses) -> int:
    """Tokens to think with; levels become tokens, with a warning."""
    if reasoning.budget is not None:
        return reasoning.budget
    budget = _BUDGETS.get(reasoning.effort, _BUDGETS["medium"])
    losses.warn(f"{reasoning.at} became a budget of {budget} tokens")
    return budget


def effort_of(reasoning: Reasoning, losses: Losses) -> str:
    """The level of effort; a budget becomes a level, with a warning."""
    if reasoning.effort:
        return reasoning.effort
    budget = reasoning.budget
    if budget is None:
        return "medium"
    effort = "low" if budget < 4096 else "medium" if budget < 16_384 else "high"
    losses.warn(f"{reasoning.at} became the effort {effort}")
    return effort


def parsed(frame: Frame) -> Object:
    """The frame's JSON object. Raises AnswerError, also for an error that the frame states."""
    try:
        value = jsontext.loads(frame.data)
    except jsontext.JSONTextError as error:
        raise unreadable(str(error)) from None
    if not isinstance(value, dict):
        raise unreadable("an event is no object")
    if value.get("error"):
        raise AnswerError(from_object(value))
    return value


def an_object(value: Any) -> Object:
    """The object, or an empty one for anything else: readers are lenient in what they do not need."""
    return value if isinstance(value, dict) else {}


def a_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def a_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def a_count(value: Any) -> int:
    """A count of tokens; Cohere writes floats. Zero for what is no count."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e12:
        return int(value)
    return 0
