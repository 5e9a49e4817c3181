"""The rules of incremental xDS, one by one."""

from typing import Any

from envoy.service.discovery.v3 import discovery_pb2 as discovery

from controlplane.xds.resource import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, Resource, Snapshot
from controlplane.xds.server import DeltaStream, Response
from tests.unit.xds_server.ads_client import resource

RUNTIME = "type.googleapis.com/envoy.service.runtime.v3.Runtime"


def stream(*published: Resource, **options: Any) -> DeltaStream:
    made = DeltaStream(lambda: 7.0, **options)
    made.publish(Snapshot.of(published))
    return made


def request(type_url: str, *names: str, nack: str = "", **fields: Any) -> discovery.DeltaDiscoveryRequest:
    made = discovery.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names, **fields)
    if nack:
        made.error_detail.message = nack
    return made


def ack(response: Response) -> discovery.DeltaDiscoveryRequest:
    return request(response.type_url, response_nonce=response.nonce)


def said(responses: list[Response]) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Of each response its type, the names of its resources and those it removes."""
    return [(r.type_url, tuple(x.name for x in r.resources), r.removed) for r in responses]


C1, C2 = resource(CLUSTER, "c1", v=1), resource(CLUSTER, "c2", v=1)
E1, R1, L1 = resource(ENDPOINTS, "c1", v=1), resource(ROUTES, "r1", v=1), resource(LISTENER, "l1", v=1)
C1_NEW, R1_NEW = resource(CLUSTER, "c1", v=2), resource(ROUTES, "r1", v=2)


def test_an_empty_first_request_of_a_root_type_is_a_wildcard() -> None:
    each = stream(C1, C2)
    (response,) = each.receive(request(CLUSTER))
    assert said([response]) == [(CLUSTER, ("c1", "c2"), ())]
    assert response.version == Snapshot.of([C1, C2]).versions[CLUSTER]
    assert each.receive(ack(response)) == []


def test_an_empty_first_request_of_another_type_asks_for_nothing() -> None:
    assert stream(R1).receive(request(ROUTES)) == []


def test_a_first_wildcard_is_answered_even_if_there_is_nothing() -> None:
    assert said(stream().receive(request(LISTENER, "*"))) == [(LISTENER, (), ())]


def test_nothing_is_said_before_the_first_snapshot() -> None:
    each = DeltaStream(lambda: 0.0)
    assert each.receive(request(CLUSTER)) == []
    assert said(each.publish(Snapshot.of([C1]))) == [(CLUSTER, ("c1",), ())]


def test_a_missing_name_is_removed_and_stays_subscribed() -> None:
    each = stream()
    (response,) = each.receive(request(ROUTES, "r1"))
    assert said([response]) == [(ROUTES, (), ("r1",))]
    assert each.receive(ack(response)) == []
    assert said(each.publish(Snapshot.of([R1]))) == [(ROUTES, ("r1",), ())]


def test_a_type_that_does_not_exist_here_is_answered() -> None:
    assert said(stream().receive(request(RUNTIME, "rtds"))) == [(RUNTIME, (), ("rtds",))]


def test_asking_again_for_a_known_name_is_answered() -> None:
    each = stream(R1)
    (response,) = each.receive(request(ROUTES, "r1"))
    each.receive(ack(response))
    assert said(each.receive(request(ROUTES, "r1"))) == [(ROUTES, ("r1",), ())]


def test_unsubscribing_needs_no_answer_and_ends_updates() -> None:
    each = stream(R1)
    (response,) = each.receive(request(ROUTES, "r1"))
    each.receive(ack(response))
    assert each.receive(request(ROUTES, resource_names_unsubscribe=["r1", "never-asked-for"])) == []
    assert each.publish(Snapshot.of([R1_NEW])) == []
    assert said(each.receive(request(ROUTES, "r1"))) == [(ROUTES, ("r1",), ())]


def test_unsubscribing_a_name_under_a_wildcard_is_answered() -> None:
    each = stream(C1)
    (first,) = each.receive(request(CLUSTER, "*", "c1", "missing"))
    assert said([first]) == [(CLUSTER, ("c1",), ("missing",))]
    each.receive(ack(first))
    answer = each.receive(request(CLUSTER, resource_names_unsubscribe=["c1", "missing"]))
    assert said(answer) == [(CLUSTER, ("c1",), ("missing",))]


def test_a_wildcard_ends_when_it_is_unsubscribed_and_names_remain() -> None:
    each = stream(C1, C2)
    (first,) = each.receive(request(CLUSTER))
    each.receive(ack(first))
    (second,) = each.receive(request(CLUSTER, "c1"))
    each.receive(ack(second))
    assert each.receive(request(CLUSTER, resource_names_unsubscribe=["*"])) == []
    changed = Snapshot.of([C1_NEW, resource(CLUSTER, "c2", v=2)])
    assert said(each.publish(changed)) == [(CLUSTER, ("c1",), ())]
    assert said(each.receive(request(CLUSTER, "*"))) == [(CLUSTER, ("c1", "c2"), ())]


def test_subscription_changes_count_even_with_a_stale_nonce() -> None:
    each = stream(R1)
    (response,) = each.receive(request(ROUTES, "missing"))
    each.receive(ack(response))
    assert said(each.receive(request(ROUTES, "r1", response_nonce=response.nonce))) == [(ROUTES, ("r1",), ())]


def test_initial_versions_suppress_what_is_known() -> None:
    each = stream(C1, C2, R1_NEW)
    known = {"c1": C1.version, "c2": "old", "gone": "x"}
    assert said(each.receive(request(CLUSTER, "*", initial_resource_versions=known))) == [(CLUSTER, ("c2",), ())]
    assert each.resuming
    # Known routes change only after the cluster is acknowledged, and removals after that.
    assert each.receive(request(ROUTES, "r1", initial_resource_versions={"r1": R1.version})) == []
    (routes,) = each.receive(request(CLUSTER, response_nonce="1"))
    assert said([routes]) == [(ROUTES, ("r1",), ())]
    assert each.receive(ack(routes)) == []
    assert said(each.resumed()) == [(CLUSTER, (), ("gone",))]


def test_after_a_rejection_nothing_is_sent_until_something_new_exists() -> None:
    each = stream(C1)
    (first,) = each.receive(request(CLUSTER))
    each.receive(ack(first))
    (second,) = each.publish(Snapshot.of([C1_NEW]))
    words = "Error adding/updating cluster(s) c1: no"
    assert each.receive(request(CLUSTER, response_nonce=second.nonce, nack=words)) == []
    assert each.publish(Snapshot.of([C1_NEW])) == []
    (view,) = each.views()
    version = Snapshot.of([C1_NEW]).versions[CLUSTER]
    assert (view.rejected, view.acknowledged) == (version, Snapshot.of([C1]).versions[CLUSTER])
    assert view.nack is not None
    assert (view.nack.message, view.nack.names, view.nack.version, view.nack.time) == (words, ("c1",), version, 7.0)
    (third,) = each.publish(Snapshot.of([C1]))
    assert said([third]) == [(CLUSTER, ("c1",), ())]
    each.receive(ack(third))
    assert each.views()[0].runs(Snapshot.of([C1]).versions[CLUSTER])


def test_what_was_rejected_along_with_the_culprit_goes_again_with_what_is_new() -> None:
    each = stream()
    (first,) = each.receive(request(CLUSTER))
    each.receive(ack(first))
    (second,) = each.publish(Snapshot.of([C1, C2]))
    each.receive(request(CLUSTER, response_nonce=second.nonce, nack="cluster c2 is wrong"))
    assert said(each.publish(Snapshot.of([C1, resource(CLUSTER, "c2", v=2)]))) == [(CLUSTER, ("c1", "c2"), ())]


def test_a_rejection_of_clusters_holds_back_the_routes_to_them() -> None:
    each = stream(C1, R1)
    for type_url, names in ((CLUSTER, ()), (ROUTES, ("r1",))):
        (response,) = each.receive(request(type_url, *names))
        each.receive(ack(response))
    (clusters,) = each.publish(Snapshot.of([C1, C2, R1_NEW]))
    assert said([clusters]) == [(CLUSTER, ("c2",), ())]
    assert each.receive(request(CLUSTER, response_nonce=clusters.nonce, nack="no")) == []


def test_a_rejection_shows_although_removals_are_still_held_back() -> None:
    each = stream(C1, R1)
    for type_url, names in ((CLUSTER, ()), (ROUTES, ("r1",))):
        (response,) = each.receive(request(type_url, *names))
        each.receive(ack(response))
    snapshot = Snapshot.of([C2, R1_NEW])
    (clusters,) = each.publish(snapshot)
    assert each.receive(request(CLUSTER, response_nonce=clusters.nonce, nack="no")) == []
    assert each.views()[0].refuses(snapshot.versions[CLUSTER])


def test_a_message_keeps_only_what_redaction_leaves() -> None:
    each = stream(C1, redact=lambda words: words.replace("sesame", "[redacted]"))
    (response,) = each.receive(request(CLUSTER))
    each.receive(request(CLUSTER, response_nonce=response.nonce, nack="key sesame " + "x" * 9000))
    nack = each.views()[0].nack
    assert nack is not None
    assert nack.message.startswith("key [redacted] x")
    assert len(nack.message) == 4096


def test_what_a_node_refused_on_its_last_stream_is_not_believed() -> None:
    before = stream(C1)
    (response,) = before.receive(request(CLUSTER))
    before.receive(request(CLUSTER, response_nonce=response.nonce, nack="no"))
    again = stream(C1, doubts=before.doubts())
    known = {"c1": C1.version}
    assert said(again.receive(request(CLUSTER, initial_resource_versions=known))) == [(CLUSTER, ("c1",), ())]


def test_additions_go_in_order_and_removals_last() -> None:
    each = stream(C1, E1, L1, R1, resource(EXTENSION, "e1"))
    asked = ((CLUSTER, ()), (ENDPOINTS, ("c1", "c2")), (LISTENER, ()), (EXTENSION, ("e1",)), (ROUTES, ("r1",)))
    for type_url, names in asked:
        for response in each.receive(request(type_url, *names)):
            each.receive(ack(response))
    waiting = each.publish(
        Snapshot.of(
            [C2, resource(ENDPOINTS, "c2"), resource(LISTENER, "l1", v=2), resource(EXTENSION, "e1", v=2), R1_NEW]
        )
    )
    order = []
    while waiting:
        response = waiting.pop(0)
        order += said([response])
        waiting += each.receive(ack(response))
    assert order == [
        (CLUSTER, ("c2",), ()),
        (ENDPOINTS, ("c2",), ()),
        (LISTENER, ("l1",), ()),
        (EXTENSION, ("e1",), ()),
        (ROUTES, ("r1",), ()),
        (CLUSTER, (), ("c1",)),
        (ENDPOINTS, (), ("c1",)),
    ]


def test_slow_nodes_skip_what_was_superseded() -> None:
    each = stream(R1)
    (response,) = each.receive(request(ROUTES, "r1"))
    for version in range(2, 9):
        assert each.publish(Snapshot.of([resource(ROUTES, "r1", v=version)])) == []
    (last,) = each.receive(ack(response))
    assert last.resources == (resource(ROUTES, "r1", v=8),)
