"""What the language says about providers: a form for each kind, most fields in common."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from controlplane.policy.discovery import DiscoverySpec
from controlplane.policy.grammar import Url
from controlplane.policy.launch import Launch
from controlplane.policy.limits import LimitNames
from controlplane.policy.mock import MockProvider
from controlplane.policy.onnx import OnnxProvider
from controlplane.policy.types import (
    AddressType,
    ApiVersion,
    Clock,
    Count,
    HeaderName,
    HeaderValue,
    HostName,
    Refresh,
    Region,
    SecretType,
    Strict,
    UrlPath,
    UrlType,
)


class HealthCheck(Strict):
    """Ask every endpoint regularly, and leave out those that do not answer 200."""

    path: UrlPath = Field(description="What to GET.")
    interval: Clock = Field(10_000, description="How often.")
    timeout: Clock = Field(2_000, description="How long to wait for the answer.")
    unhealthy_after: Count = Field(2, description="Failures in a row that take an endpoint out.")
    healthy_after: Count = Field(2, description="Successes in a row that take it in again.")


class Ejection(Strict):
    """Leave out endpoints whose answers to real requests fail."""

    after: Count = Field(5, description="Failures (5xx, resets, timeouts) in a row.")
    duration: Clock = Field(30_000, description="For how long; longer each time.")
    max_percent: int = Field(50, ge=1, le=100, description="At most this share of the endpoints.")


EjectionSpec: TypeAlias = Annotated[
    Annotated[Literal["off"], Tag("<off>")] | Annotated[Ejection, Tag("<ejection>")],
    Discriminator(lambda value: "<ejection>" if isinstance(value, dict | Ejection) else "<off>"),
]


class ProviderTls(Strict):
    """TLS towards the provider, where the defaults do not fit."""

    ca: SecretType | None = Field(
        None, description="Trust these certificate authorities (PEM) instead of the system's."
    )
    server_name: HostName | None = Field(
        None, description="Expect this name in the certificate instead of base_url's host."
    )
    cert: SecretType | None = Field(None, description="Client certificate chain, PEM.")
    key: SecretType | None = Field(None, description="Its private key, PEM.")


class RemoteProvider(Strict):
    """What providers that are reached over the network have in common."""

    kind: str = Field(description="The API it speaks.")
    base_url: UrlType | None = Field(description="Its URL, path included.")
    api_key: SecretType | None = Field(None, description="Its credential for the gateway.")
    headers: dict[HeaderName, HeaderValue] = Field({}, description="More request headers to send.")
    endpoints: Annotated[list[AddressType], Field(min_length=1)] | None = Field(
        None, description="Connect to these addresses instead of base_url's host."
    )
    discover: DiscoverySpec | None = Field(
        None, description="Where endpoints come from that come and go; instead of `endpoints`."
    )
    health: HealthCheck | None = Field(None, description="Active health checks; none by default.")
    balance: Literal["round_robin", "least_request", "random", "ring_hash"] = Field(
        "least_request", description="How endpoints are chosen. ring_hash sends a key's requests to the same one."
    )
    ejection: EjectionSpec | None = Field(
        None, description="Leaving out failing endpoints; on by default where there are several."
    )
    connect_timeout: Clock = Field(5_000, description="How long a connection may take.")
    tls: ProviderTls | None = Field(None, description="TLS settings; only with an https base_url.")
    max_connections: Count | None = Field(None, description="Connections at most; beyond it requests wait.")
    max_requests: Count | None = Field(None, description="Requests in flight at most; beyond it, 503.")
    unsupported: Literal["refuse", "drop"] = Field(
        "refuse",
        description="Parameters of a translated request that this API has no place for: a 400 that names them, or "
        "left out and named in the answer's `x-headgate-dropped`.",
    )
    limits: LimitNames = Field([], description="Limits on the requests of models that it may serve.")


class ListingProvider(RemoteProvider):
    """Those that can be asked which models they have."""

    listing: Refresh | None = Field(
        None, description="How often it is asked which models it has, or `off`; as `gateway.listing` by default."
    )


_BEARER = "Sent as `Authorization: Bearer`."
_TO_URL = "Its URL, path included: requests to /v1/... go to BASE_URL/..."
_STREAM_USAGE = "Ask for the usage of streams. Off for servers that refuse `stream_options`."


class OpenAIProvider(ListingProvider):
    """An OpenAI-compatible API: OpenAI itself, another vendor, or servers of your own."""

    kind: Literal["openai"] = Field(description="The API it speaks.")
    base_url: UrlType = Field(Url("https", "api.openai.com", 443, "/v1"), description=_TO_URL)
    api_key: SecretType | None = Field(None, description=_BEARER)
    stream_usage: bool = Field(True, description=_STREAM_USAGE)


class AzureProvider(RemoteProvider):
    """Azure OpenAI: its v1 API, or with `api_version` the deployments, whose names are then the models'."""

    kind: Literal["azure"] = Field(description="The API it speaks.")
    base_url: UrlType = Field(
        description="The resource, such as https://NAME.openai.azure.com; without a path, /openai/v1 is added, or "
        "/openai with `api_version`.",
    )
    api_key: SecretType | None = Field(None, description="Sent as `api-key`.")
    api_version: ApiVersion | None = Field(
        None, description="Use the deployments of this API version instead of the v1 API."
    )
    stream_usage: bool = Field(True, description=_STREAM_USAGE)


class HuggingFaceProvider(ListingProvider):
    """Hugging Face's inference providers."""

    kind: Literal["huggingface"] = Field(description="The API it speaks.")
    base_url: UrlType = Field(Url("https", "router.huggingface.co", 443, "/v1"), description=_TO_URL)
    api_key: SecretType | None = Field(None, description=_BEARER)
    stream_usage: bool = Field(True, description=_STREAM_USAGE)


class OpenRouterProvider(ListingProvider):
    """OpenRouter."""

    kind: Literal["openrouter"] = Field(description="The API it speaks.")
    base_url: UrlType = Field(Url("https", "openrouter.ai", 443, "/api/v1"), description=_TO_URL)
    api_key: SecretType | None = Field(None, description=_BEARER)
    stream_usage: bool = Field(True, description=_STREAM_USAGE)


class AnthropicProvider(ListingProvider):
    """Anthropic's Messages API."""

    kind: Literal["anthropic"] = Field(description="The API it speaks.")
    base_url: UrlType = Field(Url("https", "api.anthropic.com", 443, "/v1"), description=_TO_URL)
    api_key: SecretType | None = Field(None, description="Sent as `x-api-key`.")
    max_tokens: Count = Field(
        8192, description="`max_tokens` of translated requests that set no limit: this API demands one."
    )


_PURPOSE = "What translated requests say that embeddings are for: clients of OpenAI do not say it."


class GeminiProvider(ListingProvider):
    """Google's Gemini API."""

    kind: Literal["gemini"] = Field(description="The API it speaks.")
    base_url: UrlType = Field(
        Url("https", "generativelanguage.googleapis.com", 443, "/v1beta"), description="Its URL, path included."
    )
    api_key: SecretType | None = Field(None, description="Sent as `x-goog-api-key`.")
    embedding_purpose: Literal["search_document", "search_query", "classification", "clustering"] = Field(
        "search_document", description=_PURPOSE
    )


class CohereProvider(ListingProvider):
    """Cohere's API, version 2."""

    kind: Literal["cohere"] = Field(description="The API it speaks.")
    base_url: UrlType = Field(Url("https", "api.cohere.com", 443, "/v2"), description="Its URL, path included.")
    api_key: SecretType | None = Field(None, description=_BEARER)
    embedding_purpose: Literal["search_document", "search_query", "classification", "clustering"] = Field(
        "search_document", description=_PURPOSE
    )


class OllamaProvider(ListingProvider):
    """Ollama's own API. Its OpenAI-compatible one is a provider of kind openai."""

    kind: Literal["ollama"] = Field(description="The API it speaks.")
    base_url: UrlType = Field(Url("http", "127.0.0.1", 11434, "/api"), description="Its URL, path included.")
    api_key: SecretType | None = Field(None, description=_BEARER)


HealthSpec: TypeAlias = Annotated[
    Annotated[Literal["off"], Tag("<off>")] | Annotated[HealthCheck, Tag("<health>")],
    Discriminator(lambda value: "<health>" if isinstance(value, dict | HealthCheck) else "<off>"),
]


class VllmProvider(ListingProvider):
    """vLLM: servers at an address, or one that the gateway starts and keeps running itself."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["base_url"]}, {"required": ["launch"]}]})

    kind: Literal["vllm"] = Field(description="The API it speaks.")
    base_url: UrlType | None = Field(None, description=_TO_URL)
    launch: Launch | None = Field(None, description="Start this server instead of calling one at `base_url`.")
    api_key: SecretType | None = Field(None, description=_BEARER)
    health: HealthSpec | None = Field(  # type: ignore[assignment] # here it can be switched off
        None, description="Active health checks, by default of /health (below base_url's path without its /v1); or off."
    )
    stream_usage: bool = Field(True, description=_STREAM_USAGE)


class AwsCredentials(Strict):
    """Keys of an AWS account."""

    access_key_id: SecretType = Field(description="The access key's id.")
    secret_access_key: SecretType = Field(description="The access key.")
    session_token: SecretType | None = Field(None, description="The token of temporary credentials.")


class BedrockProvider(RemoteProvider):
    """Amazon Bedrock: Converse for chats, Titan for embeddings. Requests are signed (SigV4), or bear an API key."""

    kind: Literal["bedrock"] = Field(description="The API it speaks.")
    region: Region = Field(description="The AWS region.")
    base_url: UrlType | None = Field(
        None, description="Its URL, where it is not https://bedrock-runtime.REGION.amazonaws.com."
    )
    api_key: SecretType | None = Field(None, description="An API key of Bedrock, sent as `Authorization: Bearer`.")
    credentials: AwsCredentials | None = Field(
        None,
        description="What requests are signed with. Without these and `api_key`, what Envoy finds in its surroundings: "
        "AWS's variables of the environment, its files, or the role of the machine or container.",
    )


Provider: TypeAlias = (
    OpenAIProvider
    | AzureProvider
    | HuggingFaceProvider
    | OpenRouterProvider
    | AnthropicProvider
    | GeminiProvider
    | CohereProvider
    | OllamaProvider
    | BedrockProvider
    | VllmProvider
    | MockProvider
    | OnnxProvider
)
FORMS: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "openai": OpenAIProvider,
        "anthropic": AnthropicProvider,
        "azure": AzureProvider,
        "bedrock": BedrockProvider,
        "cohere": CohereProvider,
        "gemini": GeminiProvider,
        "huggingface": HuggingFaceProvider,
        "ollama": OllamaProvider,
        "openrouter": OpenRouterProvider,
        "vllm": VllmProvider,
        "mock": MockProvider,
        "onnx": OnnxProvider,
    }
)
KINDS = tuple(FORMS)


def _kind(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else None
    return f"<{kind}>" if kind in FORMS else "<openai>"


ProviderSpec: TypeAlias = Annotated[
    Annotated[OpenAIProvider, Tag("<openai>")]
    | Annotated[AnthropicProvider, Tag("<anthropic>")]
    | Annotated[AzureProvider, Tag("<azure>")]
    | Annotated[BedrockProvider, Tag("<bedrock>")]
    | Annotated[CohereProvider, Tag("<cohere>")]
    | Annotated[GeminiProvider, Tag("<gemini>")]
    | Annotated[HuggingFaceProvider, Tag("<huggingface>")]
    | Annotated[OllamaProvider, Tag("<ollama>")]
    | Annotated[OpenRouterProvider, Tag("<openrouter>")]
    | Annotated[VllmProvider, Tag("<vllm>")]
    | Annotated[MockProvider, Tag("<mock>")]
    | Annotated[OnnxProvider, Tag("<onnx>")],
    Discriminator(_kind),
]
