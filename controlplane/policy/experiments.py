"""What is under trial, and why it cannot be switched on where it does not hold. Pure.

`native_translation`: let Envoy's own transcoder translate instead of the service. It may be chosen only where its
results are the same; tests/envoy/test_transcoder.py tells where that is (docs/decisions/0017).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.document import Document
from controlplane.policy.language import Gateway

_UNKNOWN = "it does not know this API"
_FOR_ANTHROPICS_CLIENTS = "tool calls, their results and images of Anthropic's clients are sent as they are"
# What differs in Envoy 1.40, by the kind of provider.
LACKING: Mapping[str, str] = {
    "anthropic": "tool calls vanish from answers, images and tool results are sent in OpenAI's form",
    "gemini": "tools and images are not translated, a stream that breaks off looks whole",
    "cohere": _UNKNOWN,
    "ollama": _UNKNOWN,
    "bedrock": _UNKNOWN,
    "openai": _FOR_ANTHROPICS_CLIENTS,
    "azure": _FOR_ANTHROPICS_CLIENTS,
    "huggingface": _FOR_ANTHROPICS_CLIENTS,
    "openrouter": _FOR_ANTHROPICS_CLIENTS,
    "vllm": _FOR_ANTHROPICS_CLIENTS,
    "mock": _FOR_ANTHROPICS_CLIENTS,
    "onnx": _FOR_ANTHROPICS_CLIENTS,
}


def check_experiments(document: Document, gateway: Gateway, providers: Mapping[str, Any]) -> Iterable[Diagnostic]:
    """One error for each experiment that does not hold for the providers of the policy."""
    for number, name in enumerate(gateway.experimental):
        kinds = dict.fromkeys(provider.kind for provider in providers.values())
        reasons = "; ".join(f"{kind}: {LACKING[kind]}" for kind in kinds) or "there is nothing to translate"
        yield Diagnostic(
            Severity.ERROR,
            "experiment-does-not-hold",
            f"Envoy's own translation differs from the gateway's ({reasons})",
            document.place(("gateway", "experimental", number)),
            "experiments that change no answer",
            hint=f"remove `{name}`: the service translates, as without it",
        )
