"""The way of a request: read in the client's dialect, written in the provider's, or refused by name."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from extproc.translate import jsontext
from extproc.translate.clients import anthropic as anthropic_client
from extproc.translate.clients import anthropic_answer, openai_answer
from extproc.translate.clients import openai as openai_client
from extproc.translate.clients.writer import Origin
from extproc.translate.exchange import Exchange, Tongue, of_chat
from extproc.translate.failures import Answer, ClientName, Failure, render
from extproc.translate.jsontext import Object
from extproc.translate.losses import Losses, Refused, RefusedError, invalid
from extproc.translate.neutral import Chat
from extproc.translate.providers import anthropic, bedrock, cohere, embeddings, gemini, ollama, openai
from extproc.translate.providers.common import Call, Dialect, Options

ClientAPI = Literal["openai", "openai_embeddings", "anthropic"]
ProviderName = Literal[
    "openai", "azure", "huggingface", "openrouter", "vllm", "anthropic", "gemini", "cohere", "ollama", "bedrock"
]

# What clients speak, by the paths that they send it to.
CLIENT_APIS: Mapping[str, ClientAPI] = {
    "/v1/chat/completions": "openai",
    "/v1/embeddings": "openai_embeddings",
    "/v1/messages": "anthropic",
}
CLIENTS: dict[ClientAPI, Tongue] = {
    "openai": Tongue("openai", openai_answer.whole, openai_answer.Writer),
    "anthropic": Tongue("anthropic", anthropic_answer.whole, anthropic_answer.Writer),
}
PROVIDERS: dict[ProviderName, Dialect] = {
    "openai": openai.DIALECT,
    "azure": openai.DIALECT_AZURE,
    "huggingface": openai.DIALECT_HUGGINGFACE,
    "openrouter": openai.DIALECT_OPENROUTER,
    "vllm": openai.DIALECT_VLLM,
    "anthropic": anthropic.DIALECT,
    "gemini": gemini.DIALECT,
    "cohere": cohere.DIALECT,
    "ollama": ollama.DIALECT,
    "bedrock": bedrock.DIALECT,
}
_READERS: dict[ClientAPI, Callable[[Object, Losses], Chat]] = {
    "openai": openai_client.read,
    "anthropic": anthropic_client.read,
}
_OPENAI_LIKE = frozenset({"openai", "azure", "huggingface", "openrouter", "vllm"})


class Stamp(NamedTuple):
    """A name and a time (seconds since 1970) for answers of providers that give none."""

    id: str
    created: int


class Upstream(NamedTuple):
    """A request for the provider: `path` is the whole path, `headers` are to be set in place of the client's.

    `dropped` names what was left out, as places in the client's body; `warnings` tell what was carried otherwise than
    asked. Both are printable ASCII, fit for a header.
    """

    path: str
    headers: dict[str, str]
    body: bytes
    dropped: tuple[str, ...]
    warnings: tuple[str, ...]
    exchange: Exchange


def request(
    client: ClientAPI, provider: ProviderName, body: bytes, model: str, stamp: Stamp, options: Options
) -> Upstream | Refused:
    """The request in the provider's dialect for the model that it knows by this name."""
    try:
        return _request(client, provider, body, model, stamp, options)
    except RefusedError as error:
        return error.refused
    except jsontext.JSONTextError as error:
        return Refused("", f"The request body is wrong: {error}.", "invalid_request")


def refusal(refused: Refused, client: ClientAPI) -> Answer:
    """The answer to a client whose request is not sent."""
    name: ClientName = "anthropic" if client == "anthropic" else "openai"
    return render(Failure(400, refused.message, refused.code, refused.param), name)


def _request(
    client: ClientAPI, provider: ProviderName, body: bytes, model: str, stamp: Stamp, options: Options
) -> Upstream | Refused:
    parsed = jsontext.loads(body)
    if not isinstance(parsed, dict):
        invalid("", "a JSON object")
    if not isinstance(parsed.get("model"), str):
        invalid("model", "a string")
    if client == "anthropic" and provider == "anthropic":
        return _unchanged("anthropic", provider, "/messages", *_signed(parsed, body), model, options)
    if client != "anthropic" and provider in _OPENAI_LIKE:
        endpoint = "/chat/completions" if client == "openai" else "/embeddings"
        return _unchanged("openai", provider, openai.path(endpoint, model, options), body, (), model, options)
    losses = Losses()
    if client == "openai_embeddings":
        call, exchange = embeddings.prepare(provider, parsed, model, options, losses)
    else:
        call, exchange = _chat(client, PROVIDERS[provider], parsed, model, stamp, options, losses)
    refused = losses.refusal()
    if refused is not None and options.unsupported == "refuse":
        return refused
    headers = {"content-type": "application/json", "accept-encoding": "identity", **dict(call.headers)}
    path = _base_path(provider, options) + call.path
    return Upstream(path, headers, jsontext.dumps(call.body), losses.dropped, losses.warnings, exchange)


def _chat(
    client: ClientAPI, dialect: Dialect, body: Object, model: str, stamp: Stamp, options: Options, losses: Losses
) -> tuple[Call, Exchange]:
    tongue, reader = CLIENTS[client], _READERS[client]
    chat = reader(body, losses)
    if chat.choice is not None and chat.choice.kind in ("any", "tool") and not chat.tools and losses.refusal() is None:
        invalid(chat.choice.at, "tools to choose from")
    origin = Origin(stamp.id, stamp.created, model, chat.usage_asked or options.usage_always)
    exchange = of_chat(tongue, dialect, origin, options.max_frame, stream_asked=chat.stream)
    return dialect.write(chat, model, options), exchange


def _signed(parsed: Object, body: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The body as it was, or written anew where something had to go; and what went."""
    losses = Losses()
    changed = anthropic.without_unsigned_thinking(parsed, losses) if b'"thinking"' in body else None
    return (body, ()) if changed is None else (jsontext.dumps(changed), losses.dropped)


def _unchanged(
    client: ClientName,
    provider: ProviderName,
    path: str,
    body: bytes,
    dropped: tuple[str, ...],
    model: str,
    options: Options,
) -> Upstream:
    """The same dialect on both sides: only the model's name and the path change."""
    changed = jsontext.with_model(body, model)
    return Upstream(_base_path(provider, options) + path, {}, changed, dropped, (), Exchange(client))


def _base_path(provider: ProviderName, options: Options) -> str:
    if options.base_path is not None:
        return options.base_path.rstrip("/")
    if provider == "azure" and options.api_version:
        return "/openai"
    return PROVIDERS[provider].base_path
