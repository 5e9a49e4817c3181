"""The bootstrap, judged by Envoy."""

import re

import pytest
from google.protobuf import json_format

from controlplane.runtime.bootstrap import _UNREAD, Node, build_bootstrap
from controlplane.runtime.judge import judge

NODE = Node(id="node-1", xds_socket="/run/x/xds.sock", admin_socket="/run/x/envoy.sock")


@pytest.mark.parametrize("delta", [True, False])
async def test_envoy_takes_it(delta: bool) -> None:
    made = build_bootstrap(Node("n", NODE.xds_socket, NODE.admin_socket, delta=delta))
    verdict = await judge(made.SerializeToString(deterministic=True))
    assert verdict.ok, verdict.message


def test_it_takes_no_port_and_says_who_it_is() -> None:
    made = json_format.MessageToDict(build_bootstrap(NODE), preserving_proto_field_name=True)
    assert made["node"] == {"id": "node-1", "cluster": "headgate"}
    assert made["admin"]["address"] == {"pipe": {"path": "/run/x/envoy.sock", "mode": 0o600}}
    ads = made["dynamic_resources"]["ads_config"]
    assert (ads["api_type"], ads["transport_api_version"]) == ("DELTA_GRPC", "V3")
    for kind in ("cds_config", "lds_config"):
        assert made["dynamic_resources"][kind]["resource_api_version"] == "V3"
    (xds,) = made["static_resources"]["clusters"]
    assert "/run/x/xds.sock" in str(xds)
    assert "socket_address" not in str(made)


def test_state_of_the_world_can_be_chosen() -> None:
    made = build_bootstrap(Node("n", "/x", "/a", delta=False))
    ads = made.dynamic_resources.ads_config
    assert ads.api_type == ads.ApiType.GRPC


def test_connections_are_bounded_by_what_the_machine_permits() -> None:
    made = build_bootstrap(Node("n", "/x", "/a", max_connections=1234))
    (monitor,) = json_format.MessageToDict(made.overload_manager)["resourceMonitors"]
    assert monitor["typedConfig"]["maxActiveDownstreamConnections"] == "1234"
    assert made.admin.ignore_global_conn_limit


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("cluster.openai.upstream_rq_total", True),
        ("cluster.openai.lb_healthy_panic", True),
        ("http.edge.downstream_rq_active", True),
        ("cluster.openai.circuit_breakers.default.cx_open", False),
        ("cluster.openai.external.upstream_rq_200", False),
        ("listener.127.0.0.1_8080.worker_0.downstream_cx_total", False),
    ],
)
def test_statistics_that_nobody_reads_are_left_out(name: str, kept: bool) -> None:
    assert kept is not any(re.fullmatch(pattern, name) for pattern in _UNREAD)


def test_it_is_the_same_byte_for_byte() -> None:
    first, second = (build_bootstrap(NODE).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
