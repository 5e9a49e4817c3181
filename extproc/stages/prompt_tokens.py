"""How many tokens a request's prompt has, in each API's shape. Pure, total: odd shapes count what is text in them.

Chat: OpenAI's published rule: 3 tokens a message, its texts, 1 more for a name, 3 for the answer's start; for tools
the constants of its notebook on counting. Texts alone are exact, tools, images and files are estimated.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from extproc.stages import images
from extproc.stages.protocol import Endpoint
from extproc.stages.tokenizers import Tokenizer

MESSAGE, NAME, ANSWER = 3, 1, 3
_FUNCTION, _PROPERTIES, _PROPERTY, _ENUM, _VALUE, _TOOLS = 7, 3, 3, -3, 3, 12
_TEXTS = ("text", "refusal", "thinking", "input", "arguments", "output", "name")
_FILE_BYTES = 3  # a token of a file, in base64 characters, is about that many; far from exact


@dataclass(frozen=True, slots=True)
class Count:
    """`exact`: the provider will count the same."""

    tokens: int
    exact: bool


class Counter:
    """One request's count. Makes itself inexact when it meets what can only be estimated."""

    def __init__(self, tokenizer: Tokenizer, model: str) -> None:
        self._tokenizer = tokenizer
        self._text = tokenizer.count
        self._model = model
        self.exact = tokenizer.exact

    def prompt(self, endpoint: Endpoint, body: dict[str, Any]) -> Count:
        if isinstance(body.get("messages"), list):
            tokens = self.messages(body["messages"]) + self.part(body.get("system")) + ANSWER
            self.exact = self.exact and self._tokenizer.chats and not endpoint.anthropic
        elif endpoint is Endpoint.RESPONSES:
            self.exact = self.exact and self._tokenizer.chats
            tokens = self._responses(body)
        else:
            tokens = self._plain(body.get("prompt", body.get("input")))
        tools = body.get("tools")
        return Count(tokens + (self.tools(tools) if isinstance(tools, list) and tools else 0), self.exact)

    def messages(self, messages: Iterable[Any]) -> int:
        return sum([self.message(message) for message in messages])

    def message(self, message: Any) -> int:
        """One message, its overhead included."""
        if not isinstance(message, dict):
            return MESSAGE
        tokens = MESSAGE
        for name, value in message.items():
            if isinstance(value, str):
                tokens += self._text(value) + (NAME if name == "name" else 0)
            elif value is not None:
                tokens += self.part(value)
        return tokens

    def part(self, value: Any) -> int:
        """A content: a text, a part, or a list of them; tool calls too."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            return sum([self.part(inner) for inner in value])
        if not isinstance(value, dict):
            return 0
        if value.get("type") in ("text", "input_text", "output_text"):
            text = value.get("text")
            return self._text(text) if isinstance(text, str) else 0
        self.exact = False
        return self._media(value) or self._other(value)

    def tools(self, tools: list[Any]) -> int:
        self.exact = False
        return _TOOLS + sum([self._tool(tool) for tool in tools if isinstance(tool, dict)])

    def _responses(self, body: dict[str, Any]) -> int:
        given = body.get("input")
        tokens = ANSWER
        if isinstance(body.get("instructions"), str):
            tokens += MESSAGE + self._text("system") + self._text(body["instructions"])
        if isinstance(given, list):
            self.exact = self.exact and all(isinstance(item, dict) and "role" in item for item in given)
            return tokens + self.messages([_without_type(item) for item in given])
        return tokens + (MESSAGE + self._text("user") + self._text(given) if isinstance(given, str) else 0)

    def _plain(self, given: Any) -> int:
        """A text, token ids, or a list of either: completions and embeddings."""
        if isinstance(given, str):
            return self._tokenizer.count(given, special=True)
        if isinstance(given, list):
            return sum([1 if isinstance(one, int) else self._plain(one) for one in given])
        return 0

    def _media(self, part: dict[str, Any]) -> int:
        """0 where the part is neither image nor file nor sound."""
        kind = part.get("type")
        if kind in ("image_url", "input_image", "image"):
            image = part.get("image_url", part.get("source"))
            detail = image.get("detail") if isinstance(image, dict) else part.get("detail")
            return images.tokens(self._model, _size(image), detail if isinstance(detail, str) else "auto")
        if kind in ("file", "input_file", "document", "input_audio", "audio"):
            return max(1, sum([len(text) for text in _strings(part)]) // (_FILE_BYTES * 4))
        return 0

    def _other(self, part: dict[str, Any]) -> int:
        """Tool calls, results, reasoning: their texts, and what they hold."""
        tokens = 0
        for name, value in part.items():
            if name in _TEXTS and isinstance(value, str):
                tokens += self._text(value)
            elif name in ("function", "content"):
                tokens += self.part(value)
            elif name == "input" and isinstance(value, dict):
                tokens += self._text(orjson.dumps(value).decode())
        return tokens

    def _tool(self, tool: dict[str, Any]) -> int:
        function = tool["function"] if isinstance(tool.get("function"), dict) else tool
        schema = function.get("parameters", function.get("input_schema"))
        tokens = _FUNCTION + self._text(f"{function.get('name')}:{_described(function)}")
        properties = schema.get("properties") if isinstance(schema, dict) else None
        if isinstance(properties, dict) and properties:
            tokens += _PROPERTIES
            for name, property_ in properties.items():
                tokens += self._property(name, property_ if isinstance(property_, dict) else {})
        return tokens

    def _property(self, name: str, schema: dict[str, Any]) -> int:
        tokens = _PROPERTY + self._text(f"{name}:{schema.get('type')}:{_described(schema)}")
        if isinstance(schema.get("enum"), list):
            tokens += _ENUM + sum([_VALUE + self._text(str(value)) for value in schema["enum"]])
        inner = schema.get("properties", schema.get("items"))
        return tokens + (self._text(orjson.dumps(inner).decode()) if isinstance(inner, dict) else 0)


def _described(schema: dict[str, Any]) -> str:
    text = schema.get("description")
    return text.removesuffix(".") if isinstance(text, str) else ""


def _without_type(item: Any) -> Any:
    """`type: message` is no text of the prompt."""
    return (
        {name: value for name, value in item.items() if name not in ("type", "id", "status")}
        if isinstance(item, dict)
        else item
    )


def _size(image: Any) -> tuple[int, int]:
    if isinstance(image, dict):
        data = image.get("data")
        if isinstance(data, str):
            return images.size_of_base64(data)
        image = image.get("url")
    return images.size_of(image) if isinstance(image, str) else images.UNKNOWN


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
