"""The gateway -> one listener. What changes often is not in it, so that policy edits do not drain connections.

The order of the filters is part of correctness: a filter placed before the model is known sees the wrong route.
"""

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2 as mutation
from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import config_source_pb2 as source
from envoy.config.core.v3 import extension_pb2 as extension
from envoy.config.listener.v3 import listener_components_pb2 as components
from envoy.config.listener.v3 import listener_pb2 as listener
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2 as buffer
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2 as headers
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as lua
from envoy.extensions.filters.http.router.v3 import router_pb2 as router
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2 as early
from envoy.extensions.http.original_ip_detection.xff.v3 import xff_pb2 as xff
from envoy.extensions.request_id.uuid.v3 import uuid_pb2 as uuid
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2 as secret
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2 as tls
from google.protobuf.message import Message

from controlplane.plan.ir import Plan, ServerTls
from controlplane.xds import cors, denials, errors, facts, fleet, limits, module, names, rules, tokens, usage
from controlplane.xds.keys import nothing
from controlplane.xds.protos import boolean, millis, pack, uint

# Envoy would write its reason to trace into a client's id where that is a UUID.
_REQUEST_IDS = uuid.UuidRequestIdConfig(pack_trace_reason=boolean(False))
Append = base.HeaderValueOption.HeaderAppendAction
_HTTP = "type.googleapis.com/envoy.extensions.filters.http."
_INSIDE_IDLE_MS = 30_000
_LIMIT_HEADERS = ("limit", "remaining", "reset")


def lower(plan: Plan, usage_log: str, rules_log: str) -> listener.Listener:
    """The listener, with its filter chain in the order in which requests pass it. The logs are files' paths."""
    manager = _manager(plan)
    manager.access_log.append(usage.log(usage_log))
    if plan.inline is not None:
        manager.access_log.append(rules.log(rules_log))
    chain = components.FilterChain(
        filters=[components.Filter(name="http", typed_config=pack(manager))],
        transport_socket=_tls(plan.edge.tls) if plan.edge.tls else None,
    )
    address = {"socket_address": {"address": plan.edge.host, "port_value": plan.edge.port}}
    return listener.Listener(
        name=names.LISTENER,
        address=address,
        filter_chains=[chain],
        # With SO_REUSEPORT a second gateway on the same port would silently take half of the traffic.
        enable_reuse_port=boolean(False),
    )


def inside(plan: Plan, usage_log: str, socket: str) -> listener.Listener:
    """For requests of the gateway itself: to the same models, without keys, limits and rules; their usage is told.

    Who connects to the socket says whose requests they are.
    """
    manager = hcm.HttpConnectionManager(
        stat_prefix=names.INSIDE,
        rds=hcm.Rds(config_source=names.ads(), route_config_name=names.ROUTES),
        http_filters=[
            _discovered(names.MODEL_FILTER, module.TYPE, disabled=True),
            _filter("envoy.filters.http.router", router.Router(suppress_envoy_headers=True)),
        ],
        local_reply_config=errors.local_replies(messages=plan.messages),
        always_set_request_id_in_response=True,
        stream_idle_timeout=millis(_INSIDE_IDLE_MS),
    )
    manager.access_log.append(usage.log(usage_log))
    chain = components.FilterChain(filters=[components.Filter(name="http", typed_config=pack(manager))])
    made = listener.Listener(name=names.INSIDE, filter_chains=[chain])
    made.address.pipe.path = socket
    made.address.pipe.mode = 0o600
    return made


def _manager(plan: Plan) -> hcm.HttpConnectionManager:
    manager = hcm.HttpConnectionManager(
        stat_prefix="edge",
        rds=hcm.Rds(config_source=names.ads(), route_config_name=names.ROUTES),
        http_filters=_filters(plan),
        local_reply_config=errors.local_replies(messages=plan.messages, pages=plan.edge.cors is not None),
        early_header_mutation_extensions=[_scrub()],
        use_remote_address=boolean(True),
        skip_xff_append=True,
        # Nobody is "internal": Envoy would let internal clients set its own retry and timeout headers.
        internal_address_config=hcm.HttpConnectionManager.InternalAddressConfig(
            cidr_ranges=[{"address_prefix": "255.255.255.255", "prefix_len": {"value": 32}}]
        ),
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        request_id_extension=hcm.RequestIDExtension(typed_config=pack(_REQUEST_IDS)),
        server_name="headgate",
        stream_idle_timeout=millis(300_000),  # while a request is still arriving; routes have clocks of their own
        request_headers_timeout=millis(10_000),
        http2_protocol_options={"max_concurrent_streams": uint(1024)},
    )
    if plan.edge.trusted_proxies:
        manager.use_remote_address.value = False  # Envoy wants either
        manager.original_ip_detection_extensions.append(_forwarded(plan.edge.trusted_proxies))
    return manager


def _forwarded(proxies: tuple[str, ...]) -> extension.TypedExtensionConfig:
    """The client's address: the last one in x-forwarded-for that is no trusted proxy's; the peer's, if that is none."""
    config = xff.XffConfig(skip_xff_append=boolean(True))
    for network in proxies:
        address, _, length = network.partition("/")
        config.xff_trusted_cidrs.cidrs.add(address_prefix=address, prefix_len=uint(int(length)))
    return extension.TypedExtensionConfig(name="envoy.http.original_ip_detection.xff", typed_config=pack(config))


def _filters(plan: Plan) -> list[hcm.HttpFilter]:
    chain = []
    if plan.edge.cors is not None:
        chain.append(_filter("cors", cors.answers(plan.edge.cors)))
    if plan.limits:
        chain.append(_filter("limit-headers", _limit_headers()))
    nothing = "header_mutation.v3.HeaderMutation"
    # What is disabled is always there, and the route table enables it once there is something to do: a connection that
    # is older than a rule keeps the listener it began with, and its next request must not slip past the rule.
    chain.append(_discovered(names.TOKENS, tokens.JWT_TYPE, nothing, disabled=True))
    chain.append(_discovered(names.REVOCATIONS, tokens.RBAC_TYPE, nothing, disabled=True))
    chain.append(_discovered(names.ISSUERS, tokens.JWT_TYPE, nothing, disabled=True))
    chain.append(_discovered(names.IDENTITIES, tokens.MATCHED_TYPE, nothing, disabled=True))
    chain.append(_discovered(names.KEYS, "api_key_auth.v3.ApiKeyAuth", tokens.MATCHED_TYPE, nothing))
    chain.append(_discovered(names.SPENT, denials.TYPE, nothing, disabled=True))
    # Raises the limit of what filters may hold back, for requests only: answers keep Envoy's small buffers.
    body = buffer.Buffer(max_request_bytes=uint(plan.edge.max_body))
    chain.append(_filter(names.BODY, body, disabled=True))
    chain.append(_discovered(names.MODEL_FILTER, module.TYPE, disabled=True))
    chain.append(_discovered(names.PERMISSIONS, "rbac.v3.RBAC", nothing, disabled=True))
    chain.extend(_limit(limit.use.id) for limit in plan.limits)
    chain.append(_discovered(names.NO_COUNTS, fleet.NO_COUNTS_TYPE, nothing, disabled=True))
    chain.append(_discovered(names.ASKING, fleet.TYPE, nothing, disabled=True))
    chain.append(_discovered(names.RULES, rules.TYPE, nothing, disabled=True))
    # Without it the provider would see a request's headers while rules still look at its body.
    chain.append(_filter(names.HOLD, body, disabled=True))
    chain.append(_filter(names.ANSWER, rules.answer_headers(), disabled=True))
    chain.append(_discovered(names.FACTS, facts.TYPE, disabled=True))
    chain.append(_filter(names.LISTING_FILTER, lua.Lua(), disabled=True))
    chain.append(_filter("envoy.filters.http.router", router.Router(suppress_envoy_headers=True)))
    return chain


def _filter(name: str, config: Message, *, disabled: bool = False) -> hcm.HttpFilter:
    """A filter; a disabled one costs nothing until a request's first route enables it."""
    return hcm.HttpFilter(name=name, typed_config=pack(config), disabled=disabled)


def _discovered(name: str, *types: str, disabled: bool = False) -> hcm.HttpFilter:
    """A filter whose configuration is a resource of its own (ECDS)."""
    urls = [f"type.googleapis.com/{t}" if t.startswith("envoy.") else _HTTP + t for t in types]
    found = source.ExtensionConfigSource(config_source=names.ads(), type_urls=urls)
    return hcm.HttpFilter(name=name, config_discovery=found, disabled=disabled)


def _limit(name: str) -> hcm.HttpFilter:
    """A limit's filter. A limit that the policy no longer has lets the last requests of the old listener pass."""
    made = _discovered(names.limit(name), limits.MATCHED, limits.LOCAL, "header_mutation.v3.HeaderMutation")
    made.config_discovery.default_config.CopyFrom(pack(nothing()))
    return made


def _scrub() -> extension.TypedExtensionConfig:
    """Removes, before anything else looks, headers by which a client could forge what filters trust.

    Envoy itself removes its own (x-envoy-...) from clients outside, and here nobody is inside.
    """
    removals = [mutation.HeaderMutation(remove=name) for name in names.INTERNAL_HEADERS]
    config = pack(early.HeaderMutation(mutations=removals))
    return extension.TypedExtensionConfig(name="envoy.http.early_header_mutation.header_mutation", typed_config=config)


def _set(name: str, value: str, how: base.HeaderValueOption.HeaderAppendAction) -> mutation.HeaderMutation:
    header = base.HeaderValue(key=name, value=value)
    return mutation.HeaderMutation(append=base.HeaderValueOption(header=header, append_action=how))


def _limit_headers() -> headers.HeaderMutation:
    """Envoy's x-ratelimit headers under the names that OpenAI's clients know."""
    renamed = []
    for part in _LIMIT_HEADERS:
        # Where the service has told of a limit, it stays: it was asked last, so if anybody refused, it was the one.
        renamed.append(_set(f"x-ratelimit-{part}-requests", f"%RESP(x-ratelimit-{part})%", Append.ADD_IF_ABSENT))
        renamed.append(mutation.HeaderMutation(remove=f"x-ratelimit-{part}"))
    return headers.HeaderMutation(mutations=headers.Mutations(response_mutations=renamed))


def _tls(settings: ServerTls) -> base.TransportSocket:
    common = tls.CommonTlsContext(alpn_protocols=["h2", "http/1.1"])
    common.tls_certificate_sds_secret_configs.add(name=names.SERVER_CERTIFICATE, sds_config=names.ads())
    context = tls.DownstreamTlsContext(common_tls_context=common)
    if settings.client_ca is not None:
        context.require_client_certificate.value = True
        ca = secret.SdsSecretConfig(name=names.CLIENT_CA, sds_config=names.ads())
        context.common_tls_context.validation_context_sds_secret_config.CopyFrom(ca)
    return base.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))
