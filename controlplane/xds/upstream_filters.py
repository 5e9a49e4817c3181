"""What a provider's cluster does to each attempt: credential, headers, path and model name.

Upstream filters run after the choice of the target, so that every attempt says what its own provider expects.
Request headers are shared by all attempts: what another provider may have left is removed first.
"""

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2 as mutation
from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import extension_pb2 as extension
from envoy.extensions.filters.http.credential_injector.v3 import credential_injector_pb2 as injector
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2 as headers
from envoy.extensions.filters.http.upstream_codec.v3 import upstream_codec_pb2 as codec
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm
from envoy.extensions.http.injected_credentials.generic.v3 import generic_pb2 as generic
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from google.protobuf.message import Message

from controlplane.plan.ir import Upstream
from controlplane.xds import module, names
from controlplane.xds.protos import pack

_OVERWRITE = base.HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD


def lower(upstream: Upstream, lane: int) -> list[hcm.HttpFilter]:
    """The filter chain of one attempt; the codec ends it. A provider that needs nothing gets the codec alone."""
    chain = []
    foreign = upstream.foreign if lane else ()
    if foreign or upstream.headers:
        chain.append(_filter("headers", _headers(upstream, foreign)))
    if upstream.api_key is not None:
        chain.append(_filter("credential", _credential(upstream.name)))
    if lane:
        own = f"{names.cluster(upstream.name, lane)}\n{upstream.base_path}"
        chain.append(_filter(names.ATTEMPT_FILTER, module.filter_of(names.ATTEMPT_FILTER, own)))
    chain.append(_filter("codec", codec.UpstreamCodec()))
    return chain


def _filter(name: str, config: Message) -> hcm.HttpFilter:
    return hcm.HttpFilter(name=name, typed_config=pack(config))


def _headers(upstream: Upstream, foreign: tuple[str, ...]) -> headers.HeaderMutation:
    removals = [mutation.HeaderMutation(remove=name) for name in foreign]
    additions = [
        mutation.HeaderMutation(
            append=base.HeaderValueOption(
                header=base.HeaderValue(key=name, value=value.replace("%", "%%")), append_action=_OVERWRITE
            )
        )
        for name, value in upstream.headers
    ]
    return headers.HeaderMutation(mutations=headers.Mutations(request_mutations=removals + additions))


def _credential(provider: str) -> injector.CredentialInjector:
    secret = secret_pb2.SdsSecretConfig(name=names.api_key(provider), sds_config=names.ads())
    config = pack(generic.Generic(credential=secret, header="authorization"))
    credential = extension.TypedExtensionConfig(name="envoy.http.injected_credentials.generic", typed_config=config)
    return injector.CredentialInjector(overwrite=True, credential=credential)
