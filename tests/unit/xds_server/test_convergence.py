"""Random edits, interleavings, rejections and reconnections: delta, state-of-the-world and the snapshot agree."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.xds.resource import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, SECRET, TYPES, Resource, Snapshot
from tests.unit.xds_server.ads_client import Client, Wire, resource

_VERSIONS = st.integers(0, 2)
_SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def snapshots(draw: st.DrawFn, bad: bool = False) -> Snapshot:
    """Well-formed snapshots: every reference has its referent. With `bad`, some hold what clients refuse."""
    made: list[Resource] = []

    def add(type_url: str, name: str, tie: str = "", **body: Any) -> Resource:
        if bad and draw(st.integers(0, 7)) == 0:
            body["bad"] = True
        made.append(resource(type_url, name, tie, v=draw(_VERSIONS), **body))
        return made[-1]

    clusters = sorted(draw(st.sets(st.sampled_from(["c0", "c1", "c2", "c3"]))))
    tied = draw(st.booleans())
    for name in clusters:
        secret = draw(st.sampled_from([None, "s0", "s1"]))
        cluster = add(CLUSTER, name, secret=secret)
        add(ENDPOINTS, name, tie=cluster.version if tied else "")
    for name in ("s0", "s1"):
        add(SECRET, name)
    routes = sorted(draw(st.sets(st.sampled_from(["r0", "r1"]))))
    for name in routes:
        used = draw(st.sets(st.sampled_from(clusters))) if clusters else set()
        add(ROUTES, name, clusters=sorted(used))
    add(EXTENSION, "e0")
    for name in sorted(draw(st.sets(st.sampled_from(["l0", "l1"])))):
        chosen = draw(st.sampled_from(routes)) if routes else None
        add(LISTENER, name, routes=chosen, extensions=draw(st.sampled_from([[], ["e0"]])))
    return Snapshot.of(made)


def moves(*, bad: bool = False, reconnections: bool = True) -> st.SearchStrategy[list[Any]]:
    """Scripts: a snapshot is published, an int brings that many messages (up if even), None reconnects."""
    kinds: list[st.SearchStrategy[Any]] = [snapshots(bad=bad), st.integers(1, 9)]
    if reconnections:
        kinds.append(st.none())
    return st.lists(st.one_of(*kinds), max_size=14)


def play(wire: Wire, script: list[Any]) -> None:
    for move in script:
        if isinstance(move, Snapshot):
            wire.publish(move)
        elif move is None:
            wire.reconnect()
        else:
            for _ in range(move):
                _ = wire.up() if move % 2 == 0 else wire.down()


def expected(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """What a client holds of a snapshot: all roots, and what they refer to."""
    bodies = {t: {n: json.loads(r.body) for n, r in snapshot.of_type(t).items()} for t in TYPES}
    listeners, clusters = bodies[LISTENER].values(), bodies[CLUSTER].values()
    bodies[ROUTES] = {n: b for n, b in bodies[ROUTES].items() if n in {x["routes"] for x in listeners}}
    bodies[EXTENSION] = {n: b for n, b in bodies[EXTENSION].items() if any(n in x["extensions"] for x in listeners)}
    bodies[SECRET] = {n: b for n, b in bodies[SECRET].items() if n in {x["secret"] for x in clusters}}
    return bodies


def wire(delta: bool, *, lingering: bool = False, strict: bool = False) -> Wire:
    client = Client(delta, lingering)
    client.strict = strict
    return Wire(client)


@_SETTINGS
@given(moves(bad=True), moves(bad=True), snapshots(), st.booleans())
def test_both_transports_converge_to_the_snapshot(
    delta_script: list[Any], sotw_script: list[Any], last: Snapshot, lingering: bool
) -> None:
    delta, sotw = wire(True, lingering=lingering), wire(False, lingering=lingering)
    for each, script in ((delta, delta_script), (sotw, sotw_script)):
        play(each, script)
        each.publish(last)
        each.settle()
        assert each.lagging() == []
    assert delta.client.state() == sotw.client.state() == expected(last)


@_SETTINGS
@given(snapshots(), moves(bad=True), st.booleans())
def test_delta_never_leaves_a_reference_dangling(first: Snapshot, script: list[Any], lingering: bool) -> None:
    each = wire(True, lingering=lingering, strict=True)
    each.publish(first)
    each.settle()
    play(each, script)
    each.settle()


@_SETTINGS
@given(snapshots(), moves(bad=True, reconnections=False), st.booleans())
def test_sotw_never_leaves_a_reference_dangling(first: Snapshot, script: list[Any], lingering: bool) -> None:
    each = wire(False, lingering=lingering, strict=True)
    each.publish(first)
    each.settle()
    play(each, script)
    each.settle()


@_SETTINGS
@given(st.booleans(), moves(bad=True), snapshots(bad=True))
def test_nothing_is_sent_twice(delta: bool, script: list[Any], last: Snapshot) -> None:
    each = wire(delta)
    play(each, script)
    each.publish(last)
    each.settle()
    again = Snapshot.of(r for t in TYPES for r in last.of_type(t).values())
    assert each.stream.publish(last) == each.stream.publish(again) == []


@_SETTINGS
@given(snapshots(), snapshots(bad=True), st.booleans())
def test_after_a_rejection_the_last_good_snapshot_restores_everything(
    good: Snapshot, bad: Snapshot, delta: bool
) -> None:
    each = wire(delta, strict=True)
    for snapshot in (good, bad, good):
        each.publish(snapshot)
        each.settle()
    assert each.client.state() == expected(good)
    assert each.lagging() == []


@_SETTINGS
@given(snapshots(), snapshots())
def test_a_reconnecting_delta_client_is_told_only_what_changed(first: Snapshot, second: Snapshot) -> None:
    each = wire(True, strict=True)
    each.publish(first)
    each.settle()
    each.reconnect()
    each.settle()
    assert each.client.told == 0
    each.publish(second)
    each.settle()
    assert each.client.state() == expected(second)
