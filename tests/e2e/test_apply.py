"""`ctl apply`, `rollback`, `diff` against a running gateway, also with a second node that rejects or hangs."""

import json
import queue
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.rpc import status_pb2

from controlplane.xds.resource import CLUSTER, ROUTES
from tests.support.gateway import Gateway, eventually

POLICY = "providers: {p: {kind: mock}}\nmodels: {m: p}\n"
MORE = "providers: {p: {kind: mock}}\nmodels: {m: p, n: p}\n"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway(POLICY) as running:
        yield running


def ctl(gateway: Gateway, *words: str) -> subprocess.CompletedProcess[str]:
    return gateway.ctl(*words, width=80)


def other(gateway: Gateway, policy: str) -> str:
    """A policy in another file, so that what applies it is `ctl apply` and not the watcher."""
    gateway.write("other.yaml", gateway.text(policy))
    return str(gateway.folder / "other.yaml")


class Node:
    """A second Envoy, as far as the control plane can tell. It takes what it gets until it is told otherwise."""

    def __init__(self, gateway: Gateway, behave: str = "accept") -> None:
        self.behave = behave
        self._socket = next(Path(gateway.folder).glob("run/headgate-*/*/xds.sock"))
        self._out: queue.Queue[Any] = queue.Queue()

    def __enter__(self) -> Self:
        self._channel = grpc.insecure_channel(f"unix:{self._socket}")
        stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(self._channel)
        first = discovery_pb2.DeltaDiscoveryRequest(type_url=CLUSTER, resource_names_subscribe=["*"])
        first.node.id = first.node.cluster = "second"
        self._out.put(first)
        self._out.put(discovery_pb2.DeltaDiscoveryRequest(type_url=ROUTES, resource_names_subscribe=["models"]))
        self._call = stub.DeltaAggregatedResources(iter(self._out.get, None))
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._out.put(None)
        self._call.cancel()
        self._thread.join(10)
        self._channel.close()

    def _answer(self) -> None:
        try:
            for response in self._call:
                answer = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
                if self.behave == "hang":
                    continue
                if self.behave == "reject":
                    answer.error_detail.CopyFrom(status_pb2.Status(code=3, message="no such thing here"))
                self._out.put(answer)
        except grpc.RpcError:
            return  # cancelled


def in_sync(gateway: Gateway, number: int) -> bool:
    nodes = gateway.admin.get("/nodes").json()
    return len(nodes) == number and all(t["in_sync"] for node in nodes for t in node["types"])


def test_apply_waits_for_every_node_and_names_them(gateway: Gateway) -> None:
    with Node(gateway):
        eventually(lambda: in_sync(gateway, 2), "two nodes")
        done = ctl(gateway, "apply", other(gateway, MORE), "--why", "one more model", "--format", "json")
    assert done.returncode == 0, done.stderr
    view = json.loads(done.stdout)
    assert sorted(view["nodes"]) == ["local", "second"]
    assert view["difference"]["effect"] == "new requests only"
    last = gateway.admin.get("/history").json()[0]
    assert (last["why"], last["source"], last["state"]) == ("one more model", "api", "live")
    assert gateway.chat("n").status_code == 200


@pytest.mark.parametrize(
    ("behave", "timeout", "said"), [("reject", "60", "no such thing here"), ("hang", "2", "second")]
)
def test_apply_rolls_back_when_a_node_does_not_take_it(gateway: Gateway, behave: str, timeout: str, said: str) -> None:
    with Node(gateway) as node:
        eventually(lambda: in_sync(gateway, 2), "two nodes")
        node.behave = behave
        done = ctl(gateway, "apply", other(gateway, MORE), "--timeout", timeout)
        assert done.returncode == 1
        assert said in done.stderr
        eventually(lambda: gateway.chat("n").status_code == 404, "the model is gone again")
    assert gateway.chat("m").status_code == 200
    assert gateway.revision() == 1
    last = gateway.admin.get("/history").json()[0]
    assert (last["state"], said in last["error"]) == ("rolled-back", True)


def test_apply_of_what_is_live_changes_nothing(gateway: Gateway) -> None:
    done = ctl(gateway, "apply", str(gateway.path))
    assert (done.returncode, "nothing changes" in done.stdout) == (0, True)
    assert gateway.revision() == 1


def test_apply_refuses_when_another_revision_is_live(gateway: Gateway) -> None:
    done = ctl(gateway, "apply", other(gateway, MORE), "--expected", "7")
    assert (done.returncode, "revision 1 is live, not 7" in done.stderr) == (1, True)


def test_apply_of_a_wrong_policy_says_where(gateway: Gateway) -> None:
    done = ctl(gateway, "apply", other(gateway, "providers: {p: {kind: mock}}\nmodels: {m: q}\n"))
    assert done.returncode == 1
    assert "no provider or model `q`" in " ".join(done.stderr.split())


def test_what_the_control_plane_finds_wrong_is_told_of_the_file_that_was_sent(gateway: Gateway) -> None:
    sent = other(gateway, "providers: {p: {kind: mok}}\nmodels: {m: p}\n")
    for command in ("apply", "diff"):
        done = ctl(gateway, command, sent, "--server", gateway.admin_url)
        told = " ".join(done.stderr.split())
        assert (done.returncode, "  --> " in done.stderr) == (1, True)
        assert f"{Path(sent).name}:" in "".join(done.stderr.split())
        assert "`mok` is no kind of provider [unknown-value]" in told
        assert "providers.p.kind" in told
        assert "did you mean `mock`?" in told
    late = ctl(gateway, "apply", str(gateway.path), "--timeout", "0")
    assert (late.returncode, late.stderr) == (1, "error: timeout: Input should be greater than 0\n")


def test_diff_tells_by_its_exit_code(gateway: Gateway) -> None:
    assert ctl(gateway, "diff", str(gateway.path), "--exit-code").returncode == 0
    changed = ctl(gateway, "diff", other(gateway, MORE), "--exit-code")
    assert changed.returncode == 2
    assert "+ models.n" in changed.stdout
    assert "new requests only" in changed.stdout


def test_rollback_goes_one_step_back_and_to_a_number(gateway: Gateway) -> None:
    assert ctl(gateway, "apply", other(gateway, MORE)).returncode == 0
    assert ctl(gateway, "rollback", "--server", gateway.admin_url).returncode == 0
    assert gateway.chat("n").status_code == 404
    assert ctl(gateway, "rollback", "2", "--server", gateway.admin_url).returncode == 0
    assert gateway.chat("n").status_code == 200
    assert ctl(gateway, "rollback", "99", "--server", gateway.admin_url).returncode == 1


def test_everything_is_readable_at_80_columns(gateway: Gateway) -> None:
    for words in (("status",), ("history",), ("models",)):
        shown = ctl(gateway, *words, "--server", gateway.admin_url)
        assert shown.returncode == 0, shown.stderr
        assert max(map(len, shown.stdout.splitlines())) <= 80, shown.stdout


def test_no_secret_in_any_dump() -> None:
    policy = """
providers:
  o: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: {env: UPSTREAM}}
models: {m: o}
keys: {alice: {secret: {env: CLIENT}}}
"""
    with Gateway(policy, env={"UPSTREAM": "very-secret-upstream", "CLIENT": "very-secret-client"}) as running:
        running.chat("m", key="very-secret-client")
        shown = [running.admin.get(path).text for path in ("/status", "/snapshot", "/history", "/policy", "/models")]
        shown += [running.output()]
        kept = running.files("run/*.log") | running.files("state/*")
        shown += [content.decode("latin-1") for content in kept.values()]
    assert not [text for text in shown if "very-secret" in text]
