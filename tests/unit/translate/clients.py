"""How a client understands an answer: strict readers of OpenAI's and Anthropic's dialects, made for tests."""

import json
from typing import Any

from extproc.translate import ClientAPI
from tests.unit.translate.answers import Said

ANTHROPIC_REASONS = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls", "refusal": "content_filter"}


def events(stream: bytes) -> list[Any]:
    """The JSON of each event of a stream; `[DONE]` as it is. Fails for what is no well-formed stream."""
    found = []
    text = stream.decode()
    assert not text or text.endswith("\n\n")
    for event in text.split("\n\n")[:-1]:
        lines = [line for line in event.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        assert lines[-1].startswith("data: ")
        data = lines[-1].removeprefix("data: ")
        value = data if data == "[DONE]" else json.loads(data)
        assert len(lines) == 1 or lines == [f"event: {value['type']}", lines[-1]]
        found.append(value)
    return found


def understood(client: ClientAPI, body: bytes) -> Said:
    """What a whole answer says."""
    answer = json.loads(body)
    if client == "anthropic":
        return _blocks(answer["content"], answer["stop_reason"])
    message, reason = answer["choices"][0]["message"], answer["choices"][0]["finish_reason"]
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return Said(
        message["content"] or "",
        message.get("reasoning_content", ""),
        [(call["name"], json.loads(call["arguments"])) for call in calls],
        reason,
    )


def followed(client: ClientAPI, stream: bytes) -> Said:
    """What a stream says. Fails for one that breaks the rules of its dialect."""
    return _anthropic(events(stream)) if client == "anthropic" else _openai(events(stream))


def usage(client: ClientAPI, stream: bytes) -> list[bytes]:
    """The texts of the usage objects, as the edge sees them go by."""
    found = events(stream)
    if client == "openai":
        return [json.dumps(event["usage"]).encode() for event in found if event != "[DONE]" and event.get("usage")]
    named = [event["message"] if event["type"] == "message_start" else event for event in found]
    return [json.dumps(event["usage"]).encode() for event in named if "usage" in event]


def _openai(found: list[Any]) -> Said:
    *chunks, done = found
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len({(chunk["id"], chunk["model"], chunk["created"]) for chunk in chunks}) == 1
    text, thinking, reason = "", "", None
    calls: list[list[str]] = []
    for chunk in chunks:
        for choice in chunk["choices"]:
            assert reason is None, "something follows the finish reason"
            delta, reason = choice["delta"], choice["finish_reason"]
            text += delta.get("content", "")
            thinking += delta.get("reasoning_content", "")
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    assert call["index"] == len(calls)
                    calls.append([call["function"]["name"], ""])
                calls[call["index"]][1] += call["function"]["arguments"]
    return Said(text, thinking, [(name, json.loads(arguments)) for name, arguments in calls], str(reason))


def _anthropic(found: list[Any]) -> Said:
    start, *middle, delta, stop = found
    assert (start["type"], delta["type"], stop["type"]) == ("message_start", "message_delta", "message_stop")
    blocks: list[dict[str, Any]] = []
    pieces = ""
    is_open = False
    for event in middle:
        assert event["index"] == len(blocks) - (0 if event["type"] == "content_block_start" else 1)
        assert is_open == (event["type"] != "content_block_start")
        is_open = event["type"] != "content_block_stop"
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
            pieces = ""
        elif event["type"] == "content_block_delta":
            piece = event["delta"]
            if piece["type"] == "input_json_delta":
                pieces += piece["partial_json"]
            else:
                kind = piece["type"].removesuffix("_delta")
                blocks[-1][kind] += piece[kind]
        elif blocks[-1]["type"] == "tool_use":
            blocks[-1]["input"] = json.loads(pieces or "{}")
    assert not is_open
    return _blocks(blocks, delta["delta"]["stop_reason"])


def _blocks(blocks: list[dict[str, Any]], reason: str) -> Said:
    return Said(
        "".join(block["text"] for block in blocks if block["type"] == "text"),
        "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        [(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"],
        ANTHROPIC_REASONS[reason],
    )
