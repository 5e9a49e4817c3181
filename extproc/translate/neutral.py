"""The neutral form between client dialects and provider dialects: a conversation, and the events of an answer.

Every part says where it stood in the client's body (`at`), so that what a provider cannot express is named in the
client's own words.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from extproc.translate import jsontext
from extproc.translate.jsontext import Object
from extproc.translate.losses import Losses, invalid


class Cache(NamedTuple):
    """A mark to cache the prompt up to here; `ttl` as written (`5m`, `1h`), empty for the provider's default."""

    ttl: str
    at: str


@dataclass(frozen=True)
class Text:
    text: str
    at: str
    cache: Cache | None = None


@dataclass(frozen=True)
class Image:
    """By URL, or as base64 `data` with its media type."""

    at: str
    url: str = ""
    data: str = ""
    media_type: str = ""
    detail: str = ""
    cache: Cache | None = None


@dataclass(frozen=True)
class Audio:
    at: str
    data: str
    format: str  # wav, mp3
    cache: Cache | None = None


@dataclass(frozen=True)
class Document:
    """By URL, as base64 `data` with its media type, or as plain `text`."""

    at: str
    url: str = ""
    data: str = ""
    text: str = ""
    media_type: str = ""
    name: str = ""
    cache: Cache | None = None


@dataclass(frozen=True)
class Thinking:
    """What the model thought in an earlier turn; providers accept it back only with the signature they gave."""

    text: str
    at: str
    signature: str = ""
    redacted: str = ""  # encrypted thinking, instead of text
    cache: None = None


@dataclass(frozen=True)
class ToolCall:
    """`arguments` as the client wrote them: a JSON text (OpenAI) or a value (Anthropic)."""

    id: str
    name: str
    arguments: str | Object
    at: str
    signature: str = ""  # Gemini's, without which it refuses its own call
    cache: Cache | None = None

    @property
    def arguments_text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else jsontext.text(self.arguments)

    @cached_property
    def arguments_object(self) -> Object:
        """The object; an empty text is an empty object. Refuses other texts."""
        if not isinstance(self.arguments, str):
            return self.arguments
        try:
            value = jsontext.loads(self.arguments) if self.arguments.strip() else {}
        except jsontext.JSONTextError:
            value = None
        if not isinstance(value, dict):
            invalid(self.at, "arguments that are the JSON text of an object")
        return value


@dataclass(frozen=True)
class ToolResult:
    call_id: str
    parts: tuple[Text | Image | Document, ...]
    at: str
    is_error: bool = False
    cache: Cache | None = None

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.parts if isinstance(part, Text))


Part = Text | Image | Audio | Document | Thinking | ToolCall | ToolResult


class Turn(NamedTuple):
    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]
    at: str


class Tool(NamedTuple):
    """`schema` is the JSON Schema of the arguments; None when the client gave none."""

    name: str
    description: str | None
    schema: Object | None
    strict: bool | None
    at: str
    cache: Cache | None = None

    @property
    def parameters(self) -> Object:
        """A schema in any case, for providers that demand one."""
        return self.schema if self.schema is not None else {"type": "object", "properties": {}}


class Choice(NamedTuple):
    kind: Literal["auto", "none", "any", "tool"]
    at: str
    name: str = ""


class Format(NamedTuple):
    """An answer in JSON: any (`schema` None), or after a schema."""

    schema: Object | None
    at: str
    name: str = ""
    description: str = ""
    strict: bool | None = None


class Reasoning(NamedTuple):
    """What the client asked of the model's thinking. `effort`: minimal, low, medium, high, xhigh, max; or empty."""

    at: str
    on: bool
    effort: str = ""
    budget: int | None = None  # tokens


class Setting(NamedTuple):
    """A parameter with its neutral name in `Chat.settings`. A hint does not change the answer."""

    value: object
    at: str
    hint: bool = False


class Flag(NamedTuple):
    value: bool
    at: str


@dataclass(frozen=True)
class Chat:
    """A request for one answer. `settings` by neutral name: OpenAI's name where it has one."""

    turns: tuple[Turn, ...]
    losses: Losses
    settings: dict[str, Setting] = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()
    choice: Choice | None = None
    parallel: Flag | None = None
    format: Format | None = None
    reasoning: Reasoning | None = None
    stream: bool = False
    usage_asked: bool = False

    def setting(self, name: str) -> object:
        found = self.settings.get(name)
        return None if found is None else found.value


class Usage(NamedTuple):
    """Tokens: `input` with what came from and went to a cache, `output` with reasoning."""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0


class Started(NamedTuple):
    """The answer begins; empty strings where the provider tells nothing."""

    id: str = ""
    model: str = ""


class TextPiece(NamedTuple):
    text: str


class RefusalPiece(NamedTuple):
    text: str


class ThinkingPiece(NamedTuple):
    text: str


class ThinkingSigned(NamedTuple):
    """The signature of the thinking before it."""

    signature: str


class ThinkingRedacted(NamedTuple):
    data: str


class CallStarted(NamedTuple):
    """A tool call begins; its arguments follow in pieces, which belong to the last call begun.

    `id` is empty for providers whose calls have none.
    """

    id: str
    name: str
    signature: str = ""


class CallPiece(NamedTuple):
    arguments: str


class Counted(NamedTuple):
    """The answer's usage so far: the last one counts."""

    usage: Usage


Reason = Literal["stop", "length", "tool_calls", "content_filter"]


class Finished(NamedTuple):
    """`reason` in neutral words; `sequence` is the stop sequence that was met, if the provider says so."""

    reason: Reason
    sequence: str | None = None


class Unexpressed(NamedTuple):
    """Something in the answer that no client dialect has a place for."""

    what: str


class Ended(NamedTuple):
    """The provider said that nothing follows."""


Event = (
    Started
    | TextPiece
    | RefusalPiece
    | ThinkingPiece
    | ThinkingSigned
    | ThinkingRedacted
    | CallStarted
    | CallPiece
    | Counted
    | Finished
    | Unexpressed
    | Ended
)
