"""Providers of every kind, and a policy with a model at each of them."""

import json
import re
from collections.abc import Mapping

from extproc.translate import ProviderName
from tests.support.wired import Answer, Asked, WiredProvider, streamed
from tests.unit.translate.answers import STREAMS, Step, stream, whole

# Kind of the policy -> the dialect that it speaks, and what else its entry says.
KINDS: Mapping[str, tuple[ProviderName, str]] = {
    "openai": ("openai", ""),
    "azure": ("openai", ""),
    "deployments": ("openai", 'api_version: "2024-10-21"'),
    "huggingface": ("openai", ""),
    "openrouter": ("openai", ""),
    "vllm": ("openai", "health: off"),
    "anthropic": ("anthropic", ""),
    "gemini": ("gemini", ""),
    "cohere": ("cohere", ""),
    "ollama": ("ollama", ""),
    "bedrock": (
        "bedrock",
        "region: eu-west-1, credentials: {access_key_id: {env: AWS_ID}, secret_access_key: {env: AWS_SECRET}}",
    ),
}
ENV = {"PROVIDER_KEY": "provider-secret", "AWS_ID": "AKIDEXAMPLE", "AWS_SECRET": "aws-secret", "ALICE": "alice-secret"}
BASE_PATHS = {
    "openai": "/v1", "azure": "", "deployments": "", "huggingface": "/v1", "openrouter": "/api/v1", "vllm": "/v1",
    "anthropic": "/v1", "gemini": "/v1beta", "cohere": "/v2", "ollama": "/api", "bedrock": "",
}  # fmt: skip


def answers(kind: str, steps: list[Step]) -> WiredProvider:
    """A provider that says these steps, whole or as a stream."""
    dialect = KINDS[kind][0]

    def answer(asked: Asked) -> Answer:
        body = asked.json()
        if body.get("stream") or "stream" in asked.path.lower():
            events = stream(dialect, steps)
            if kind == "anthropic":  # its own clients want events named
                events = re.sub(rb'data: {"type": "(\w+)"', rb"event: \1\n\g<0>", events)
            # Cut anywhere: no event begins where a part does.
            parts = [events[at : at + 37] for at in range(0, len(events), 37)]
            return streamed(*parts, kind=STREAMS[dialect])
        return Answer(200, whole(dialect, steps))

    return WiredProvider(answer)


def entry(kind: str, url: str, more: str = "") -> str:
    """A provider's entry of the policy."""
    of = "azure" if kind == "deployments" else kind
    key = "" if kind == "bedrock" else ", api_key: {env: PROVIDER_KEY}"
    own = ", ".join(part for part in (KINDS[kind][1], more) if part)
    return f'{kind}: {{kind: {of}, base_url: "{url}{BASE_PATHS[kind]}"{key}{", " + own if own else ""}}}'


def error(kind: str, status: int, message: str, **headers: str) -> Answer:
    """An error as a provider of this kind tells it."""
    body: dict[str, object] = {"error": {"message": message, "type": "invalid_request_error", "code": None}}
    if kind == "anthropic":
        body = {"type": "error", "error": {"type": "overloaded_error", "message": message}}
    return Answer(status, json.dumps(body).encode(), headers={k.replace("_", "-"): v for k, v in headers.items()})
