"""Providers of kind vllm checked: an address or a server to start, and arguments that leave the rest to the gateway."""

from collections.abc import Iterator, Mapping
from typing import Any

from controlplane.policy import grammar
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.document import Document, Path
from controlplane.policy.launch import Launch
from controlplane.policy.providers import VllmProvider
from controlplane.policy.types import LOOKS_SECRET

# Fields for servers elsewhere: the gateway is alone with its own one, on a unix socket.
_ELSEWHERE = ("endpoints", "discover", "tls", "api_key", "balance", "ejection")
# What the gateway says itself, or what would keep it from reaching the server.
_RESERVED = frozenset(
    {
        "--model", "--served-model-name", "--uds", "--host", "--port", "--api-key", "--root-path", "--headless",
        "--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs", "--ssl-cert-reqs",
    }
)  # fmt: skip


def check_launches(document: Document, providers: Mapping[str, Any]) -> Iterator[Diagnostic]:
    """Everything that the text alone can tell."""
    for name, provider in providers.items():
        if not isinstance(provider, VllmProvider):
            continue
        path: Path = ("providers", name)
        if (provider.base_url is None) == (provider.launch is None):
            message = "a provider of kind vllm has an address, or a server to start"
            yield _error(document, "one-address", message, path, "one of `base_url` and `launch`")
        if provider.launch is not None:
            for field in _ELSEWHERE:
                if field in provider.model_fields_set:
                    message = f"`{field}` is for servers elsewhere; this one has a socket that only the gateway reaches"
                    yield _error(document, "one-address", message, (*path, field), f"`launch` without `{field}`")
            yield from _launch(document, provider.launch, (*path, "launch"))


def served(providers: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The models of servers that have no others, by provider."""
    launched = {name: of.launch for name, of in providers.items() if isinstance(of, VllmProvider) and of.launch}
    return {name: launch.served for name, launch in launched.items() if not launch.adapters}


def _launch(document: Document, launch: Launch, path: Path) -> Iterator[Diagnostic]:
    for number, arg in enumerate(launch.args):
        option, _, told = arg.partition("=") if arg.startswith("-") else ("", "", arg)
        if option.replace("_", "-") in _RESERVED:
            message = f"`{option}` is for the gateway to say"
            yield _error(document, "reserved-argument", message, (*path, "args", number), "other arguments")
        elif LOOKS_SECRET.search(told):
            message = "this looks like a secret, and arguments can be seen by everyone on the machine"
            expected = "a variable in `env`, {env: NAME} or {file: path}"
            yield _error(document, "literal-secret", message, (*path, "args", number), expected)
    for name, value in launch.env.items():
        if isinstance(value, str) and LOOKS_SECRET.search(value):
            message, expected = "this looks like a secret", "{env: NAME} or {file: path}"
            yield _error(document, "literal-secret", message, (*path, "env", name), expected)
    if not grammar.matches(grammar.MODEL, launch.served[0]):
        message = f"`{launch.served[0]}`, the last part of the path, is no name of a model"
        yield _error(document, "missing-field", message, (*path, "model"), "the field `names`")


def _error(document: Document, code: str, message: str, path: Path, expected: str) -> Diagnostic:
    return Diagnostic(Severity.ERROR, code, message, document.place(path), expected)
