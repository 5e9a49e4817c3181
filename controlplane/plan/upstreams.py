"""Providers -> upstreams: addresses, names for TLS, and what is on by default."""

from dataclasses import replace

from controlplane.plan.ir import Ejection, Endpoint, Health, Upstream, UpstreamTls
from controlplane.policy import language
from controlplane.policy.grammar import Url, is_ip
from controlplane.policy.secrets import SecretRef

_DEFAULT_EJECTION = Ejection(after=5, duration_ms=30_000, max_percent=50)


def build(name: str, provider: language.Provider) -> Upstream:
    """The upstream of one provider, without lanes yet."""
    if isinstance(provider, language.MockProvider):
        return _sidecar(name, provider.kind)
    url = provider.base_url
    endpoints = tuple(Endpoint(address.host, address.port) for address in provider.endpoints or ())
    endpoints = endpoints or (Endpoint(url.host, url.port),)
    default_port = 443 if url.scheme == "https" else 80
    return Upstream(
        name=name,
        kind=provider.kind,
        host=url.host if url.port == default_port else f"{url.host}:{url.port}",
        endpoints=endpoints,
        resolve=not all(is_ip(endpoint.host) for endpoint in endpoints),
        base_path=url.path,
        tls=_tls(provider),
        api_key=provider.api_key,
        headers=tuple(sorted(provider.headers.items())),
        health=_health(provider.health),
        ejection=_ejection(provider.ejection, endpoints),
        balance=provider.balance,
        connect_timeout_ms=provider.connect_timeout,
        max_connections=provider.max_connections,
        max_requests=provider.max_requests,
        lanes=1,
        foreign=(),
        stream_usage=provider.stream_usage,
    )


def with_lanes(upstream: Upstream, lanes: int, foreign: tuple[str, ...]) -> Upstream:
    return replace(upstream, lanes=lanes, foreign=foreign)


def issuer(name: str, url: Url, ca: SecretRef | None) -> Upstream:
    """Where an outside issuer publishes its keys."""
    tls = UpstreamTls(url.host, ca, None, None) if url.scheme == "https" else None
    return _plain(name, "issuer", url.host, (Endpoint(url.host, url.port),), resolve=not is_ip(url.host), tls=tls)


def _sidecar(name: str, kind: str) -> Upstream:
    """A provider that the gateway runs itself: lowering puts its socket in."""
    return _plain(name, kind, f"{kind}.headgate", ())


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


def _tls(provider: language.OpenAIProvider) -> UpstreamTls | None:
    if provider.base_url.scheme != "https":
        return None
    own = provider.tls
    if own is None:
        return UpstreamTls(provider.base_url.host, None, None, None)
    return UpstreamTls(own.server_name or provider.base_url.host, own.ca, own.cert, own.key)


def _health(check: language.HealthCheck | None) -> Health | None:
    if check is None:
        return None
    return Health(check.path, check.interval, check.timeout, check.unhealthy_after, check.healthy_after)


def _ejection(own: language.Ejection | str | None, endpoints: tuple[Endpoint, ...]) -> Ejection | None:
    """A single address is never ejected: that would turn its errors into an outage of our own making."""
    if own == "off" or (len(endpoints) == 1 and is_ip(endpoints[0].host)):
        return None
    if own is None or isinstance(own, str):
        return _DEFAULT_EJECTION
    return Ejection(own.after, own.duration, own.max_percent)
