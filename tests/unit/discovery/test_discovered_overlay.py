"""Endpoints laid over a snapshot: what changes, and what must not."""

from envoy.config.endpoint.v3 import endpoint_pb2 as endpoint
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from controlplane.discovery.found import Found
from controlplane.plan.ir import Endpoint
from controlplane.xds.overlay import overlay
from controlplane.xds.resource import ENDPOINTS, Snapshot
from controlplane.xds.subsets import lacking
from tests.unit.plan.compiled import compiled

COMPILED = compiled("""version: 1
providers:
  farm: {kind: openai, base_url: "http://farm.internal/v1", discover: {registered: {token: {env: FARM}}}}
  ring:
    kind: openai
    base_url: http://ring.internal/v1
    discover: {file: ring.yaml}
    balance: ring_hash
  fixed: {kind: openai, base_url: "http://10.0.0.1:80/v1"}
models:
  llama: farm
  both: {try: [{provider: farm, model: gpt-oss}, {provider: ring, model: qwen}, fixed]}
  "any-*": farm
""")
SNAPSHOT, PLAN = COMPILED.snapshot, COMPILED.plan


def assignment(snapshot: Snapshot, name: str) -> endpoint.ClusterLoadAssignment:
    return endpoint.ClusterLoadAssignment.FromString(snapshot.resources[ENDPOINTS][name].body)


def test_endpoints_have_their_weights_and_models() -> None:
    one = Found(Endpoint("10.0.0.7", 8000), 100, 400, ("llama",))
    laid = overlay(SNAPSHOT, PLAN, {"farm": (one, Found(Endpoint("10.0.0.8", 8000), 400, 400))})
    first, second = assignment(laid, "farm").endpoints[0].lb_endpoints
    assert first.endpoint.address.socket_address.address == "10.0.0.7"
    assert first.endpoint.hostname == "farm.internal"
    assert (first.load_balancing_weight.value, second.load_balancing_weight.value) == (100, 400)
    assert MessageToDict(first.metadata) == {"filterMetadata": {"envoy.lb": {"farm": ["llama"]}}}
    assert MessageToDict(second.metadata) == {"filterMetadata": {"envoy.lb": {"farm": ["llama"]}}}, "all that is asked"
    other = assignment(laid, "farm~2").endpoints[0].lb_endpoints[1]
    assert MessageToDict(other.metadata) == {"filterMetadata": {"envoy.lb": {"farm~2": ["gpt-oss"]}}}


def test_a_ring_is_not_moved_by_load() -> None:
    laid = overlay(SNAPSHOT, PLAN, {"ring": (Found(Endpoint("10.0.0.7", 8000), 100, 400),)})
    assert assignment(laid, "ring").endpoints[0].lb_endpoints[0].load_balancing_weight.value == 400


_founds = st.lists(
    st.builds(
        Found,
        st.builds(Endpoint, st.sampled_from(["10.0.0.7", "fd00::7"]), st.integers(1, 9)),
        st.integers(1, 400),
        st.integers(1, 400),
        st.lists(st.sampled_from(["llama", "gpt-oss", "x"]), unique=True).map(tuple),
    ),
    max_size=4,
    unique_by=lambda found: found.endpoint,
).map(tuple)


@given(st.dictionaries(st.sampled_from(["farm", "ring"]), _founds))
def test_only_endpoints_of_these_providers_change(found: dict[str, tuple[Found, ...]]) -> None:
    laid = overlay(SNAPSHOT, PLAN, found)
    from_scratch = Snapshot.of(r for named in laid.resources.values() for r in named.values())
    assert laid == from_scratch, "versions are those of the content"
    changed = {
        (kind, name)
        for kind, named in laid.resources.items()
        for name, resource in named.items()
        if resource.version != SNAPSHOT.resources[kind][name].version
    }
    assert {kind for kind, _ in changed} <= {ENDPOINTS}
    assert {name.partition("~")[0] for _, name in changed} == {name for name, listed in found.items() if listed}
    for name, listed in found.items():
        group, nowhere = assignment(laid, name).endpoints
        assert len(group.lb_endpoints) == len(listed)
        assert (nowhere.priority, len(nowhere.lb_endpoints)) == (1, 1)


def test_without_discovery_the_snapshot_is_the_same() -> None:
    plain = compiled("version: 1\nproviders: {p: {kind: mock}}\nmodels: {m: p}\n")
    assert overlay(plain.snapshot, plain.plan, {}) is plain.snapshot
    assert overlay(SNAPSHOT, PLAN, {}) == SNAPSHOT, "nothing found, nothing laid"


def test_models_that_nobody_has() -> None:
    some = Found(Endpoint("10.0.0.7", 8000), models=("llama", "x"))
    assert lacking(PLAN, {"farm": (), "ring": ()}) == {"farm": ("gpt-oss", "llama"), "ring": ("qwen",)}
    assert lacking(PLAN, {"farm": (some,)}) == {"farm": ("gpt-oss",)}
    assert lacking(PLAN, {"farm": (some, Found(Endpoint("10.0.0.8", 8000)))}) == {"farm": ()}
