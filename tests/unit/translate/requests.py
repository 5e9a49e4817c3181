"""Strategies: valid chat requests in OpenAI's dialect, in which each text is unlike all others."""

import json
from typing import Any

from hypothesis import strategies as st

NAMES = ("get_weather", "search", "now")
TAILS = ("", "ä", '"', "\\n", "🙂", "\n")
IMAGE = "data:image/png;base64,aW1n"
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0, 1),
    "top_p": st.floats(0, 1),
    "max_completion_tokens": st.integers(1, 100_000),
    "seed": st.integers(0, 2**70),
    "frequency_penalty": st.floats(-2, 2),
    "presence_penalty": st.floats(-2, 2),
    "n": st.integers(1, 3),
    "logprobs": st.booleans(),
    "logit_bias": st.dictionaries(st.just("50256"), st.integers(-100, 100), max_size=1),
    "parallel_tool_calls": st.booleans(),
    "reasoning_effort": st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh"]),
    "store": st.booleans(),
    "stream": st.booleans(),
    "service_tier": st.sampled_from(["auto", "flex"]),
}
SCHEMA = {"type": "object", "properties": {"b": {"type": "integer", "maximum": 2**80}, "a": {"type": "string"}}}


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    """A request: alternating turns with images, parallel calls and their results, tools, and any parameters."""
    unique = (f"text-{i}-{draw(st.sampled_from(TAILS))}" for i in range(10_000))
    body: dict[str, Any] = {"model": "smart", "messages": [{"role": "user", "content": next(unique)}]}
    if draw(st.booleans()):
        body["messages"].insert(0, {"role": draw(st.sampled_from(["system", "developer"])), "content": next(unique)})
    for i in range(draw(st.integers(0, 3))):
        body["messages"] += draw(exchanges(unique, i))
    if draw(st.booleans()):
        body["tools"] = [tool(name, next(unique)) for name in NAMES]
        if draw(st.booleans()):
            named = {"type": "function", "function": {"name": "search"}}
            body["tool_choice"] = draw(st.sampled_from(["auto", "none", "required", named]))
    for name in draw(st.sets(st.sampled_from(sorted(SCALARS)))):
        body[name] = draw(SCALARS[name])
    if draw(st.booleans()):
        body["stop"] = draw(st.one_of(st.just(next(unique)), st.just([next(unique), next(unique)])))
    for name in draw(st.sets(st.sampled_from(["user", "safety_identifier", "prompt_cache_key", "a_newer_field"]))):
        body[name] = next(unique)
    if draw(st.booleans()):
        shape = {"name": "shape", "schema": SCHEMA, "strict": True}
        shapes = [{"type": "json_object"}, {"type": "text"}, {"type": "json_schema", "json_schema": shape}]
        body["response_format"] = draw(st.sampled_from(shapes))
    return body


@st.composite
def exchanges(draw: st.DrawFn, unique: Any, number: int) -> list[dict[str, Any]]:
    """An assistant's turn, the results of its calls, and what the user says to it."""
    answer: dict[str, Any] = {"role": "assistant", "content": next(unique)}
    messages = [answer]
    calls = draw(st.lists(st.sampled_from(NAMES), max_size=3))
    if calls:
        answer["tool_calls"] = []
        if draw(st.booleans()):
            answer["content"] = None
    for i, name in enumerate(calls):
        arguments = json.dumps({"z": next(unique), "a": draw(st.integers(-(2**80), 2**80))}, ensure_ascii=False)
        function = {"name": name, "arguments": arguments}
        answer["tool_calls"].append({"id": f"call_{number}_{i}", "type": "function", "function": function})
        messages.append({"role": "tool", "tool_call_id": f"call_{number}_{i}", "content": next(unique)})
    content: Any = next(unique)
    if draw(st.booleans()):
        content = [{"type": "text", "text": next(unique)}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    messages.append({"role": "user", "content": content})
    return messages


def tool(name: str, description: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": SCHEMA}}
