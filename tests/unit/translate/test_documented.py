"""The tables of docs/translation.md are what the translation does. HEADGATE_GOLDEN=write brings them in step."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from extproc.translate import ClientAPI, Options, ProviderName, Refused, Stamp, request

PAGE = Path(__file__).parents[3] / "docs/translation.md"
IMAGE, PDF = "aW1n", "JVBERi0="
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
TWO = [TOOL, {"type": "function", "function": {"name": "g"}}]
CLAUDE_TOOL = {"name": "f", "input_schema": {"type": "object"}}
SHAPE = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
# Each parameter by its name in the table: what is added to the smallest request.
OPENAI: dict[str, dict[str, Any]] = {
    "`max_completion_tokens`, `max_tokens`": {"max_completion_tokens": 50},
    "`temperature` up to 1": {"temperature": 0.5},
    "`temperature` above 1": {"temperature": 1.5},
    "`top_p`": {"top_p": 0.5},
    "`top_k` (not OpenAI's)": {"top_k": 5},
    "`stop`": {"stop": ["x"]},
    "`seed`": {"seed": 1},
    "`frequency_penalty`, `presence_penalty`": {"frequency_penalty": 1},
    "`logit_bias`": {"logit_bias": {"1": 1}},
    "`logprobs`, `top_logprobs`": {"logprobs": True},
    "`n` above 1": {"n": 2},
    "`tools`": {"tools": [TOOL]},
    "`tools[].function.strict`": {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
    "`tools` of type `custom`": {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
    "`tool_choice: none`": {"tools": [TOOL], "tool_choice": "none"},
    "`tool_choice: required`": {"tools": [TOOL], "tool_choice": "required"},
    "`tool_choice` of one of several": {"tools": TWO, "tool_choice": {"type": "function", "function": {"name": "f"}}},
    "`parallel_tool_calls: false`": {"tools": [TOOL], "parallel_tool_calls": False},
    "`response_format: json_object`": {"response_format": {"type": "json_object"}},
    "`response_format: json_schema`": {"response_format": SHAPE},
    "`reasoning_effort`": {"reasoning_effort": "low"},
    "`reasoning_effort: none`": {"reasoning_effort": "none"},
    "`verbosity`": {"verbosity": "low"},
    "`user`, `safety_identifier`": {"user": "u"},
    "`metadata`, `store`, `service_tier`, `prompt_cache_*`": {"metadata": {"a": "b"}},
    "`prediction`, `web_search_options`, `audio`, `modalities`": {"web_search_options": {}},
    "fields unknown here": {"a_newer_field": 1},
}
ANTHROPIC: dict[str, dict[str, Any]] = {
    "`max_tokens`": {"max_tokens": 7},
    "`temperature`, `top_p`": {"temperature": 0.5},
    "`top_k`": {"top_k": 5},
    "`stop_sequences`": {"stop_sequences": ["x"]},
    "`system`": {"system": "x"},
    "`cache_control`": {"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
    "`tools`": {"tools": [CLAUDE_TOOL]},
    "`tools` of Anthropic's servers": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    "`tool_choice: any`": {"tools": [CLAUDE_TOOL], "tool_choice": {"type": "any"}},
    "`tool_choice: none`": {"tools": [CLAUDE_TOOL], "tool_choice": {"type": "none"}},
    "`disable_parallel_tool_use`": {
        "tools": [CLAUDE_TOOL],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    },
    "`thinking` with a budget": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
    "`thinking: disabled`": {"thinking": {"type": "disabled"}},
    "`output_config.effort`": {"output_config": {"effort": "low"}},
    "`output_config.format`": {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
    "`metadata.user_id`": {"metadata": {"user_id": "u"}},
    "`service_tier`": {"service_tier": "standard_only"},
    "`container`, fields unknown here": {"container": "c"},
}
URL, DATA = "https://example.com/a.png", f"data:image/png;base64,{IMAGE}"
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
THOUGHT = {"role": "assistant", "content": "x"}
CONTENT: dict[str, list[dict[str, Any]]] = {
    "images as data": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": DATA}}]}],
    "images by URL": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]}],
    "audio": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}]}],
    "files as data (PDF)": [
        {"role": "user", "content": [{"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PDF}"}}]}
    ],
    "files by `file_id`": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}],
    "parallel tool calls and results": [
        {"role": "assistant", "tool_calls": [CALL, CALL | {"id": "d"}]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
        {"role": "tool", "tool_call_id": "d", "content": "2"},
    ],
    "thinking with a signature": [
        THOUGHT | {"reasoning_details": [{"type": "reasoning.text", "text": "t", "signature": "s"}]}
    ],
    "thinking without one": [THOUGHT | {"reasoning_content": "t"}],
    "thinking, encrypted": [THOUGHT | {"reasoning_details": [{"type": "reasoning.encrypted", "data": "d"}]}],
}
MODELS: dict[ProviderName, str] = {
    "anthropic": "claude-sonnet-5",
    "gemini": "gemini-3-pro",
    "cohere": "command-a",
    "ollama": "qwen3",
    "bedrock": "claude-sonnet-5",
    "openai": "gpt-5",
    "openrouter": "x",
}


def outcome(client: ClientAPI, provider: ProviderName, extra: dict[str, Any], turns: list[dict[str, Any]]) -> str:
    """What happens to the part of the request that is extra."""
    body = {"model": "a", "max_tokens": 5000, "messages": [*turns, {"role": "user", "content": "x"}]} | extra
    text, stamp = json.dumps(body).encode(), Stamp("", 0)
    refuse, drop = (
        request(client, provider, text, MODELS[provider], stamp, Options(unsupported=policy))
        for policy in ("refuse", "drop")
    )
    if isinstance(drop, Refused):
        assert drop.code == "unsupported_content"
        return "✗"
    if isinstance(refuse, Refused):
        return "✗"
    return "–" if drop.dropped else "~" if drop.warnings else "✓"


def table(client: ClientAPI, providers: list[ProviderName], rows: dict[str, Any], *, content: bool = False) -> str:
    lines = ["| | " + " | ".join(providers) + " |", "|---" * (len(providers) + 1) + "|"]
    for name, added in rows.items():
        cells = [outcome(client, of, {}, added) if content else outcome(client, of, added, []) for of in providers]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


FOREIGN: list[ProviderName] = ["anthropic", "gemini", "cohere", "ollama", "bedrock"]
TABLES = {
    "openai parameters": table("openai", FOREIGN, OPENAI),
    "anthropic parameters": table("anthropic", ["openai", "openrouter", *FOREIGN[1:]], ANTHROPIC),
    "content": table("openai", FOREIGN, CONTENT, content=True),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_in_step(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, mark, after = page.partition(f"<!-- {name} -->\n\n")
    assert mark, f"the page has no place for {name}"
    if os.environ.get("HEADGATE_GOLDEN") == "write":
        rest = after[after.index("\n## ") :] if after.startswith("|") else "\n" + after
        PAGE.write_text(f"{before}{mark}{TABLES[name]}\n{rest}", encoding="utf-8")
    else:
        assert after.startswith(TABLES[name] + "\n"), "run `HEADGATE_GOLDEN=write pytest` on this file"
