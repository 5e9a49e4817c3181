"""What a provider's cluster does to each attempt: credential, headers, path and model name.

Upstream filters run after the choice of the target, so that every attempt says what its own provider expects.
Request headers are shared by all attempts: what another provider may have left is removed first.
"""

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2 as mutation
from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import extension_pb2 as extension
from envoy.extensions.filters.http.aws_request_signing.v3 import aws_request_signing_pb2 as signing
from envoy.extensions.filters.http.credential_injector.v3 import credential_injector_pb2 as injector
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2 as headers
from envoy.extensions.filters.http.upstream_codec.v3 import upstream_codec_pb2 as codec
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm
from envoy.extensions.http.injected_credentials.generic.v3 import generic_pb2 as generic
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from google.protobuf.message import Message

from controlplane.plan.ir import Aws, Upstream
from controlplane.policy.secrets import Secrets
from controlplane.xds import module, names, translation
from controlplane.xds.protos import pack

_MOST_HELD = 64 << 20  # bytes of a request that is translated: at least what `max_body` may become by translation
_IF_ABSENT = base.HeaderValueOption.HeaderAppendAction.ADD_IF_ABSENT
_OVERWRITE = base.HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD


def lower(upstream: Upstream, lane: int, secrets: Secrets, translates_in_ms: int | None) -> list[hcm.HttpFilter]:
    """The filter chain of one attempt; the codec ends it. A provider that needs nothing gets the codec alone."""
    chain = []
    foreign = upstream.foreign if lane else ()
    if foreign or upstream.headers or upstream.defaults:
        chain.append(_filter("headers", _headers(upstream, foreign)))
    if upstream.api_key is not None:
        chain.append(_filter("credential", _credential(upstream)))
    if lane:
        own = _attempt(upstream, lane, translated=translates_in_ms is not None)
        chain.append(_filter(names.ATTEMPT_FILTER, module.filter_of(names.ATTEMPT_FILTER, own)))
    if translates_in_ms is not None and upstream.translation is not None:
        chain.append(_filter("translation", translation.processor(upstream.translation, translates_in_ms)))
        chain.append(_filter(names.TRANSLATED_FILTER, module.filter_of(names.TRANSLATED_FILTER)))
    if upstream.aws is not None:
        chain.append(_filter("signature", _signature(upstream, upstream.aws, secrets)))
    chain.append(_filter("codec", codec.UpstreamCodec()))
    return chain


def _attempt(upstream: Upstream, lane: int, *, translated: bool) -> str:
    """What the module's filter is told, a line each: see envoy/native/attempt.zig."""
    lines = [names.cluster(upstream.name, lane, translated=translated), upstream.base_path]
    if translated:
        lines += ["", str(_MOST_HELD)]
    elif upstream.deployments:
        lines.append(upstream.deployments)
    return "\n".join(lines)


def _filter(name: str, config: Message) -> hcm.HttpFilter:
    return hcm.HttpFilter(name=name, typed_config=pack(config))


def _headers(upstream: Upstream, foreign: tuple[str, ...]) -> headers.HeaderMutation:
    removals = [mutation.HeaderMutation(remove=name) for name in foreign]
    own = {name.lower() for name, _ in upstream.headers}
    additions = [_set(name, value, _OVERWRITE) for name, value in upstream.headers]
    additions += [_set(name, value, _IF_ABSENT) for name, value in upstream.defaults if name not in own]
    return headers.HeaderMutation(mutations=headers.Mutations(request_mutations=removals + additions))


def _set(name: str, value: str, how: base.HeaderValueOption.HeaderAppendAction) -> mutation.HeaderMutation:
    header = base.HeaderValue(key=name, value=value.replace("%", "%%"))
    return mutation.HeaderMutation(append=base.HeaderValueOption(header=header, append_action=how))


def _signature(upstream: Upstream, account: Aws, secrets: Secrets) -> signing.AwsRequestSigning:
    """SigV4: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html"""
    # The host is written into requests once there is a connection, which may be later than this.
    made = signing.AwsRequestSigning(service_name="bedrock", region=account.region, host_rewrite=upstream.host)
    # What proxies on the way may change, and what is nobody's business but ours, is not signed.
    for name in ("x-forwarded-for", "x-forwarded-proto", "x-amzn-trace-id", "x-request-id"):
        made.match_excluded_headers.add(exact=name)
    made.match_excluded_headers.add(prefix="x-headgate-")
    made.match_excluded_headers.add(prefix="x-envoy-")
    if account.access_key_id is not None and account.secret_access_key is not None:
        own = made.credential_provider.inline_credential
        own.access_key_id = secrets[account.access_key_id].reveal()
        own.secret_access_key = secrets[account.secret_access_key].reveal()
        if account.session_token is not None:
            own.session_token = secrets[account.session_token].reveal()
    return made


def _credential(upstream: Upstream) -> injector.CredentialInjector:
    secret = secret_pb2.SdsSecretConfig(name=names.api_key(upstream.name), sds_config=names.ads())
    config = pack(generic.Generic(credential=secret, header=upstream.api_key_header))
    credential = extension.TypedExtensionConfig(name="envoy.http.injected_credentials.generic", typed_config=config)
    return injector.CredentialInjector(overwrite=True, credential=credential)
