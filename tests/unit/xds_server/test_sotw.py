"""The rules of state-of-the-world xDS, one by one."""

from typing import Any

from envoy.service.discovery.v3 import discovery_pb2 as discovery

from controlplane.xds.resource import CLUSTER, LISTENER, ROUTES, Resource, Snapshot
from controlplane.xds.server import Response, SotwStream
from tests.unit.xds_server.ads_client import resource

C1, C2, R1, R2 = (resource(t, n, v=1) for t, n in [(CLUSTER, "c1"), (CLUSTER, "c2"), (ROUTES, "r1"), (ROUTES, "r2")])
C2_NEW = resource(CLUSTER, "c2", v=2)


def stream(*published: Resource) -> SotwStream:
    made = SotwStream(lambda: 0.0)
    made.publish(Snapshot.of(published))
    return made


def request(type_url: str, *names: str, nonce: str = "", nack: str = "", **fields: Any) -> discovery.DiscoveryRequest:
    made = discovery.DiscoveryRequest(type_url=type_url, resource_names=names, response_nonce=nonce, **fields)
    if nack:
        made.error_detail.message = nack
    return made


def said(responses: list[Response]) -> list[tuple[str, tuple[str, ...]]]:
    return [(r.type_url, tuple(x.name for x in r.resources)) for r in responses]


def test_roots_are_said_in_full_and_absence_deletes() -> None:
    each = stream(C1, C2)
    (first,) = each.receive(request(CLUSTER))
    assert said([first]) == [(CLUSTER, ("c1", "c2"))]
    assert each.receive(request(CLUSTER, nonce=first.nonce, version_info=first.version)) == []
    (second,) = each.publish(Snapshot.of([C1, C2_NEW]))
    assert said([second]) == [(CLUSTER, ("c1", "c2"))]
    each.receive(request(CLUSTER, nonce=second.nonce))
    (third,) = each.publish(Snapshot.of([C2_NEW]))
    assert (said([third]), third.version) == ([(CLUSTER, ("c2",))], Snapshot.of([C2_NEW]).versions[CLUSTER])


def test_an_empty_root_is_said_too() -> None:
    assert said(stream().receive(request(LISTENER))) == [(LISTENER, ())]


def test_a_cluster_is_kept_until_the_routes_left_it() -> None:
    each = stream(C1, R1)
    for type_url, names in ((CLUSTER, ()), (ROUTES, ("r1",))):
        (response,) = each.receive(request(type_url, *names))
        each.receive(request(type_url, *names, nonce=response.nonce))
    changed = Snapshot.of([C2, resource(ROUTES, "r1", v=2)])
    (both,) = each.publish(changed)
    assert said([both]) == [(CLUSTER, ("c1", "c2"))]
    assert both.version != changed.versions[CLUSTER]
    (routes,) = each.receive(request(CLUSTER, nonce=both.nonce))
    assert said([routes]) == [(ROUTES, ("r1",))]
    (last,) = each.receive(request(ROUTES, "r1", nonce=routes.nonce))
    assert (said([last]), last.version) == ([(CLUSTER, ("c2",))], changed.versions[CLUSTER])


def test_other_types_answer_the_names_that_are_asked_for() -> None:
    each = stream(R1, R2)
    (first,) = each.receive(request(ROUTES, "r1"))
    assert said([first]) == [(ROUTES, ("r1",))]
    (second,) = each.receive(request(ROUTES, "r1", "r2", nonce=first.nonce))
    assert said([second]) == [(ROUTES, ("r2",))]
    each.receive(request(ROUTES, "r1", "r2", nonce=second.nonce))
    assert said(each.publish(Snapshot.of([R1, resource(ROUTES, "r2", v=2)]))) == [(ROUTES, ("r2",))]


def test_what_is_missing_is_not_answered_until_it_exists() -> None:
    each = stream()
    assert each.receive(request(ROUTES, "r1")) == []
    assert each.views()[0].runs(Snapshot.of([]).versions[ROUTES])
    assert said(each.publish(Snapshot.of([R1]))) == [(ROUTES, ("r1",))]


def test_a_name_dropped_and_asked_for_again_is_answered() -> None:
    each = stream(R1, R2)
    (first,) = each.receive(request(ROUTES, "r1", "r2"))
    assert each.receive(request(ROUTES, "r2", nonce=first.nonce)) == []
    assert said(each.receive(request(ROUTES, "r1", "r2", nonce=first.nonce))) == [(ROUTES, ("r1",))]


def test_an_empty_list_after_names_asks_for_nothing() -> None:
    each = stream(C1, C2)
    (first,) = each.receive(request(CLUSTER, "*", "c1"))
    assert said([first]) == [(CLUSTER, ("c1", "c2"))]
    each.receive(request(CLUSTER, nonce=first.nonce))
    assert each.publish(Snapshot.of([C1, C2_NEW])) == []


def test_stale_nonces_change_no_subscription() -> None:
    each = stream(R1, R2)
    (first,) = each.receive(request(ROUTES, "r1"))
    (second,) = each.receive(request(ROUTES, "r1", "r2", nonce=first.nonce))
    assert each.receive(request(ROUTES, "r1", nonce=first.nonce)) == []
    each.receive(request(ROUTES, "r1", "r2", nonce=second.nonce))
    assert said(each.publish(Snapshot.of([R1, resource(ROUTES, "r2", v=2)]))) == [(ROUTES, ("r2",))]


def test_the_last_answer_stands_for_those_before_it() -> None:
    each = stream(C1)
    each.receive(request(CLUSTER))
    (second,) = each.publish(Snapshot.of([C1, C2]))
    each.receive(request(CLUSTER, nonce=second.nonce))
    assert each.views()[0].runs(Snapshot.of([C1, C2]).versions[CLUSTER])


def test_what_is_refused_is_said_again_as_it_was_last_accepted() -> None:
    each = stream(C1, C2)
    (first,) = each.receive(request(CLUSTER))
    each.receive(request(CLUSTER, nonce=first.nonce))
    (second,) = each.publish(Snapshot.of([C1, C2_NEW]))
    assert each.receive(request(CLUSTER, nonce=second.nonce, nack="c2 is wrong")) == []
    (third,) = each.publish(Snapshot.of([resource(CLUSTER, "c1", v=2), C2_NEW]))
    assert third.resources == (resource(CLUSTER, "c1", v=2), C2)
    each.receive(request(CLUSTER, nonce=third.nonce))
    assert each.views()[0].rejected is not None
