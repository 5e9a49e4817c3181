"""Providers -> upstreams: addresses, names for TLS, credentials, and what is on by default."""

from dataclasses import replace
from typing import Literal

from controlplane.plan.ir import Aws, Ejection, Endpoint, Health, Upstream, UpstreamTls
from controlplane.plan.launches import Server
from controlplane.plan.services import Service, service
from controlplane.policy import providers
from controlplane.policy.discovery import ByName
from controlplane.policy.grammar import Url, is_ip
from controlplane.policy.mock import MockProvider
from controlplane.policy.onnx import OnnxProvider
from controlplane.policy.secrets import SecretRef
from extproc.translate import PROVIDERS, Options
from extproc.translate.settings import Translation

_DEFAULT_EJECTION = Ejection(after=5, duration_ms=30_000, max_percent=50)
# One that ended is found out by its next request, which then goes elsewhere; one that hangs only so. What it does
# besides, such as loading a model, may take the processor for a while. One that was started again is wanted at once.
_CHECKS = {"onnx": Health("/health", 2000, 5000, unhealthy_after=3, healthy_after=1, unhealthy_interval_ms=250)}
# It answers slowly while it is busy, and serves as soon as it answers.
_LAUNCHED = Health("/health", 2000, 5000, unhealthy_after=3, healthy_after=1, unhealthy_interval_ms=500)
_SERVICE_MS = 30_000  # between questions to a service of our own, which tells more once a model is loaded
_API_KEY_HEADERS = {"anthropic": "x-api-key", "azure": "api-key", "gemini": "x-goog-api-key"}
# What Anthropic's API demands of every request: https://docs.claude.com/en/api/versioning
_DEFAULT_HEADERS = {"anthropic": (("anthropic-version", "2023-06-01"),)}


def build(name: str, provider: providers.Provider, listing_ms: int = 0) -> Upstream:
    """The upstream of one provider, without lanes yet. `listing_ms`: how often it is asked where it does not say so."""
    if isinstance(provider, MockProvider | OnnxProvider):
        own = _served(name, service(name, provider))
        return replace(own, listing_ms=min(listing_ms, _SERVICE_MS) if provider.kind == "onnx" else 0)
    if isinstance(provider, providers.VllmProvider) and provider.launch is not None:
        launched = _launched(name, provider, Server(name, provider.launch))
        return replace(launched, listing_ms=min(_listing(provider, listing_ms), _SERVICE_MS))
    url = _url(provider)
    found = provider.discover
    endpoints = _endpoints(provider, url)
    default_port = 443 if url.scheme == "https" else 80
    return Upstream(
        name=name,
        kind=provider.kind,
        host=url.host if url.port == default_port else f"{url.host}:{url.port}",
        endpoints=endpoints,
        resolve=not all(is_ip(endpoint.host) for endpoint in endpoints),
        base_path=url.path,
        tls=_tls(provider, url),
        api_key=provider.api_key,
        headers=tuple(sorted(provider.headers.items())),
        health=_health(_check(provider, url)),
        ejection=_ejection(provider.ejection, endpoints),
        balance=provider.balance,
        connect_timeout_ms=provider.connect_timeout,
        max_connections=provider.max_connections,
        max_requests=provider.max_requests,
        lanes=1,
        foreign=(),
        stream_usage=getattr(provider, "stream_usage", True),
        api_key_header=_API_KEY_HEADERS.get(provider.kind, "authorization"),
        defaults=_DEFAULT_HEADERS.get(provider.kind, ()),
        aws=_aws(provider),
        deployments=getattr(provider, "api_version", None) or "",
        translation=_translation(provider, url),
        discovered=not endpoints,
        refresh_ms=found.refresh if isinstance(found, ByName) else None,
        listing_ms=_listing(provider, listing_ms),
    )


def with_lanes(upstream: Upstream, lanes: int, translated: int, foreign: tuple[str, ...]) -> Upstream:
    return replace(upstream, lanes=lanes, translated_lanes=translated, foreign=foreign)


def issuer(name: str, url: Url, ca: SecretRef | None) -> Upstream:
    """Where an outside issuer publishes its keys."""
    tls = UpstreamTls(url.host, ca, None, None) if url.scheme == "https" else None
    return _plain(name, "issuer", url.host, (Endpoint(url.host, url.port),), resolve=not is_ip(url.host), tls=tls)


def _served(name: str, own: Service) -> Upstream:
    """A provider that the gateway runs itself: lowering puts its socket in."""
    kind = own.told.kind
    made = _plain(name, kind, f"{kind}.headgate", ())
    translation = Translation("openai", Options(base_path=made.base_path))
    return replace(made, translation=translation, service=own, health=_CHECKS.get(kind))


def _launched(name: str, provider: providers.VllmProvider, server: Server) -> Upstream:
    """A provider whose server the gateway starts: lowering puts its socket in, which nobody else can reach."""
    made = _plain(name, provider.kind, "vllm.headgate", ())
    return replace(
        made,
        server=server,
        headers=tuple(sorted(provider.headers.items())),
        health=_LAUNCHED if provider.health is None else _health(provider.health),
        connect_timeout_ms=provider.connect_timeout,
        max_connections=provider.max_connections,
        max_requests=provider.max_requests,
        stream_usage=provider.stream_usage,
        translation=_translation(provider, Url("http", made.host, 80, made.base_path)),
    )


def _plain(
    name: str,
    kind: str,
    host: str,
    endpoints: tuple[Endpoint, ...],
    *,
    resolve: bool = False,
    tls: UpstreamTls | None = None,
) -> Upstream:
    return Upstream(
        name=name,
        kind=kind,
        host=host,
        endpoints=endpoints,
        resolve=resolve,
        base_path="/v1",
        tls=tls,
        api_key=None,
        headers=(),
        health=None,
        ejection=None,
        balance="least_request",
        connect_timeout_ms=5000,
        max_connections=None,
        max_requests=None,
        lanes=1,
        foreign=(),
        stream_usage=True,
    )


def _url(provider: providers.RemoteProvider) -> Url:
    """The URL of its API; kinds that are not found at one place have theirs made."""
    if isinstance(provider, providers.BedrockProvider):
        return provider.base_url or Url("https", f"bedrock-runtime.{provider.region}.amazonaws.com", 443, "")
    assert provider.base_url is not None  # noqa: S101 - only Bedrock's may be absent
    if isinstance(provider, providers.AzureProvider) and not provider.base_url.path:
        return replace(provider.base_url, path="/openai" if provider.api_version else "/openai/v1")
    return provider.base_url


def _endpoints(provider: providers.RemoteProvider, url: Url) -> tuple[Endpoint, ...]:
    """None where they are found while the gateway runs."""
    if isinstance(provider.discover, ByName):
        return (Endpoint(provider.discover.dns.host, provider.discover.dns.port),)
    if provider.discover is not None:
        return ()
    listed = tuple(Endpoint(address.host, address.port) for address in provider.endpoints or ())
    return listed or (Endpoint(url.host, url.port),)


def _aws(provider: providers.RemoteProvider) -> Aws | None:
    if not isinstance(provider, providers.BedrockProvider) or provider.api_key is not None:
        return None
    own = provider.credentials
    if own is None:
        return Aws(provider.region)
    return Aws(provider.region, own.access_key_id, own.secret_access_key, own.session_token)


def _translation(provider: providers.RemoteProvider, url: Url) -> Translation:
    """How to translate into its API; what only some kinds can be told is there by the name of the policy's field."""
    told = {
        name: value
        for name in ("unsupported", "api_version", "max_tokens", "stream_usage", "embedding_purpose")
        if (value := getattr(provider, name, None)) is not None
    }
    kind = next(kind for kind in PROVIDERS if kind == provider.kind)
    return Translation(kind, Options(base_path=url.path, **told))


def _listing(provider: providers.RemoteProvider, usual_ms: int) -> int:
    if not isinstance(provider, providers.ListingProvider):
        return 0
    return usual_ms if provider.listing is None else provider.listing


def _tls(provider: providers.RemoteProvider, url: Url) -> UpstreamTls | None:
    if url.scheme != "https":
        return None
    own = provider.tls
    if own is None:
        return UpstreamTls(url.host, None, None, None)
    return UpstreamTls(own.server_name or url.host, own.ca, own.cert, own.key)


def _check(provider: providers.RemoteProvider, url: Url) -> providers.HealthCheck | Literal["off"] | None:
    """How a provider is checked: as the policy says; vLLM has a path for it, beside its API."""
    if provider.health is None and isinstance(provider, providers.VllmProvider):
        return providers.HealthCheck(path=f"{url.path.removesuffix('/v1')}/health")
    return provider.health


def _health(check: providers.HealthCheck | Literal["off"] | None) -> Health | None:
    if check is None or check == "off":
        return None
    return Health(check.path, check.interval, check.timeout, check.unhealthy_after, check.healthy_after)


def _ejection(own: providers.Ejection | str | None, endpoints: tuple[Endpoint, ...]) -> Ejection | None:
    """A single address is never ejected: that would turn its errors into an outage of our own making."""
    if own == "off" or (len(endpoints) == 1 and is_ip(endpoints[0].host)):
        return None
    if own is None or isinstance(own, str):
        return _DEFAULT_EJECTION
    return Ejection(own.after, own.duration, own.max_percent)
