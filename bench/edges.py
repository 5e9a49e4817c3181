"""What is compared: a bare Envoy proxy, and the edge compiled from policies, in front of the same upstream."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm

from controlplane.compiling import Compiled, Compiler
from controlplane.policy.load import LoadCache
from controlplane.policy.secrets import SecretRef
from controlplane.xds.link import static_bootstrap
from controlplane.xds.surroundings import Surroundings

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
BUFFER = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29},
    }
)


@dataclass(frozen=True, slots=True)
class Edge:
    """A policy to measure: what it is called in the report, and its text."""

    name: str
    policy: str
    models: int = 1000
    accounting: bool = True


def edges(port: int, models: int = 1000, keys: int = 1000) -> list[Edge]:
    """The issue's policy (keys and models), and the same with more asked of it."""
    head = f"version: 1\ngateway: {{listen: 127.0.0.1:{port}}}\nproviders: {{up: {{kind: mock}}}}\n"
    same = _same_names(models)
    renamed = "".join(f"  model-{i}: {{provider: up, model: upstream-{i}}}\n" for i in range(models))
    plain = "".join(f"  key-{i}: {{secret: {{env: KEY_{i}}}}}\n" for i in range(keys))
    limited = "".join(
        f'  key-{i}: {{secret: {{env: KEY_{i}}}, models: [model-{i}, "model-*"], limits: [standard]}}\n'
        for i in range(keys)
    )
    limits = "limits: {standard: {requests: 100M/m}}\n"
    return [
        Edge("10 models, no keys", f"{head}models:\n{_same_names(10)}", 10),
        Edge("1,000 models, 1,000 keys", f"{head}models:\n{same}keys:\n{plain}"),
        Edge("the same, without accounting", f"{head}models:\n{same}keys:\n{plain}", accounting=False),
        Edge("10,000 models, 1,000 keys", f"{head}models:\n{_same_names(10_000)}keys:\n{plain}", 10_000),
        Edge("1,000 models renamed upstream, 1,000 keys", f"{head}models:\n{renamed}keys:\n{plain}"),
        Edge("the same, permissions and limits", f"{head}models:\n{renamed}keys:\n{limited}{limits}"),
    ]


def _same_names(models: int) -> str:
    return "".join(f"  model-{i}: up\n" for i in range(models))


def around(socket: Path, rules_socket: str = "") -> Surroundings:
    """The upstream listens at `socket`, workers of rules at `rules_socket`."""
    log = str(socket.with_name("requests.log"))
    return Surroundings(
        "/etc/ssl/certs/ca-certificates.crt",
        str(socket),
        log,
        limits_socket=str(limits_socket(socket)),
        rules_socket=rules_socket,
    )


def compiler(socket: Path, where: Surroundings | None = None) -> Compiler:
    return Compiler("policy.yaml", _secret, where or around(socket), LoadCache())


def limits_socket(socket: Path) -> Path:
    """Where the rate limit service listens, beside the upstream."""
    return socket.with_name("limits.sock")


def _secret(ref: SecretRef) -> str:
    return "redis://" if ref.name == "REDIS" else ref.name.replace("KEY_", "sk-")


def compiled(policy: str, socket: Path) -> Compiled:
    return compiler(socket).compile(policy, datetime(2026, 1, 1, tzinfo=UTC))


def write_edge(policy: str, socket: Path, file: Path, *, accounting: bool = True) -> None:
    """The policy as a static bootstrap, so that nothing but the request path is measured."""
    made = static_bootstrap(compiled(policy, socket if accounting else _unread(socket)).snapshot)
    if not accounting:
        _without_log(made)
    file.write_bytes(made.SerializeToString(deterministic=True))


def _unread(socket: Path) -> Path:
    """Where the upstream gives its answers a type in which no usage is looked for."""
    return socket.with_suffix(".unread")


def _without_log(bootstrap: bootstrap_pb2.Bootstrap) -> None:
    http = bootstrap.static_resources.listeners[0].filter_chains[0].filters[0]
    manager = hcm.HttpConnectionManager()
    http.typed_config.Unpack(manager)
    del manager.access_log[:]
    http.typed_config.Pack(manager)


def write_bare(port: int, socket: Path, file: Path) -> None:
    """A plain reverse proxy."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s"}}
    plenty = {"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(socket)}}}}
    cluster = {
        "name": "up",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [plenty]},
        "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    _write({"listeners": [_listener(address, route)], "clusters": [cluster]}, file)


def write_upstream(socket: Path, file: Path, *, keep: bool = True) -> None:
    """An Envoy that answers at once with a fixed completion. `keep` connections, as providers do."""
    # Without waiting for the body it answers too early for HTTP/1.1 to keep the connection.
    whole = [{"name": "body", "typed_config": {"@type": BUFFER, "max_request_bytes": 1 << 20}}] if keep else []
    listeners = [
        _listener({"pipe": {"path": str(path)}}, _answer(kind), *whole)
        for path, kind in ((socket, "application/json"), (_unread(socket), "text/plain"))
    ]
    _write({"listeners": listeners}, file)


def _answer(kind: str) -> dict[str, object]:
    header = {"header": {"key": "content-type", "value": kind}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": ANSWER}},
        "response_headers_to_add": [header],
    }


def _listener(address: dict[str, object], route: dict[str, object], *filters: dict[str, object]) -> dict[str, object]:
    manager = {
        "@type": HCM,
        "stat_prefix": "plain",
        "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
        "http_filters": [*filters, {"name": "router", "typed_config": {"@type": ROUTER}}],
    }
    return {
        "name": str(address),
        "address": address,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _write(resources: dict[str, object], file: Path) -> None:
    file.write_text(yaml.safe_dump({"static_resources": resources}, width=10_000))
