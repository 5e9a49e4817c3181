"""The names that parts of the configuration share."""

from collections.abc import Iterator

from envoy.config.core.v3 import config_source_pb2 as source

from controlplane.plan.ir import Target, Upstream

# Internal request headers, removed from what clients send.
CLIENT = "x-headgate-client"
MODEL = "x-headgate-model"
INSTEAD = "x-headgate-instead"  # the model to serve in place of the one asked for
STREAM = "x-headgate-stream"  # "1" where a stream is asked for
TOKEN_ID = "x-headgate-token-id"  # noqa: S105 - the name of a header
ISSUER = "x-headgate-issuer"  # the `iss` of an outside token
GRANT = "x-headgate-grant"  # the models that a client of an outside issuer may use
OWNER = "x-headgate-owner"  # the client header, where it is told to a part of the gateway
CAP = "x-headgate-cap"  # the output tokens that the request allows; absent where it does not say
PRIORITY = "x-headgate-priority"  # whose turn it is at a service of local models
PROVIDER = "x-headgate-provider"  # whom the control plane asks for its models; never from clients
CLIENT_PATH = "x-envoy-original-path"  # before an attempt changed it; the access log knows it by this name
INTERNAL_HEADERS = (
    CLIENT, MODEL, INSTEAD, STREAM, TOKEN_ID, ISSUER, GRANT, OWNER, CAP, PRIORITY, CLIENT_PATH, "x-client",
    "x-model",
)  # fmt: skip

LISTENER = "edge"
INSIDE = "inside"  # the listener for requests of the gateway itself
LISTINGS = "listings"  # the listener by which the control plane asks providers for their models
ROUTES = "models"
KEYS = "keys"
TOKENS = "tokens"
REVOCATIONS = "revocations"
ISSUERS = "issuers"
IDENTITIES = "identities"
PERMISSIONS = "permissions"
ADDRESS_DENIED = "address-not-allowed"  # of the permissions: why a request was refused
SPENT = "spent"
BODY = "body"
RULES = "rules"
HOLD = "hold"
ANSWER = "answer"
SERVER_CERTIFICATE = "edge-certificate"
CLIENT_CA = "edge-client-ca"
USAGE_CLUSTER = "headgate/usage"  # no provider can have this name
RULES_CLUSTER = "headgate/rules"
XDS_CLUSTER = "headgate-xds"
MODULE = "headgate"  # the dynamic module: libheadgate.so
LIMITS_CLUSTER = "headgate/limits"  # the rate limit service
ASKING = "asking"  # the filter that asks it
NO_COUNTS = "no-counts"
MARKS = "headgate.limits"  # the namespace of route metadata that says by which limits a model's requests count

# The latter two, of the module, read route metadata under their own name: the model to ask the provider for, one for
# all attempts or one per cluster.
LISTING_FILTER = "listing"
FACTS = "facts"
MODEL_FILTER = "model"
ATTEMPT_FILTER = "attempt"
TRANSLATED_FILTER = "translated"


# What our configuration needs of Envoy's runtime: patterns that name every team which shares a limit, and large
# requests that are translated. Of a service that is slower than what it is sent, Envoy 1.40 tells a connection to the
# provider that may not be there yet, and crashes; ext_proc bounds what waits for the service by itself.
RUNTIME = {
    "re2.max_program_size.error_level": 1_000_000,
    "re2.max_program_size.warn_level": 1_000_000,
    "envoy.reloadable_features.grpc_side_stream_flow_control": False,
}


def limit(name: str) -> str:
    return f"limit/{name}"


def cluster(provider: str, lane: int, *, translated: bool = False) -> str:
    """The cluster of a provider's lane; the first lane bears the provider's name."""
    if translated:
        return f"{provider}~translated{lane if lane > 1 else ''}"
    return provider if lane == 0 else f"{provider}~{lane + 1}"


def target_cluster(target: Target) -> str:
    return cluster(target.provider, target.lane, translated=target.translated)


def lanes(upstream: Upstream) -> Iterator[tuple[int, bool]]:
    """The lanes of a provider, and whether they translate."""
    yield from ((lane, False) for lane in range(upstream.lanes))
    yield from ((lane, True) for lane in range(1, upstream.translated_lanes + 1))


def api_key(provider: str) -> str:
    return f"provider/{provider}/api-key"


def provider_ca(provider: str) -> str:
    return f"provider/{provider}/ca"


def provider_certificate(provider: str) -> str:
    return f"provider/{provider}/certificate"


def ads() -> source.ConfigSource:
    """The configuration source of everything that is not in the bootstrap."""
    return source.ConfigSource(
        ads=source.AggregatedConfigSource(),
        resource_api_version=source.ApiVersion.V3,
        initial_fetch_timeout={"seconds": 0},
    )
