"""The registry as a value: whatever services do, in whatever order, some things always hold."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.discovery import kept, registry, weights
from controlplane.discovery.found import Found
from controlplane.discovery.registry import Announced, FullError, Load, Registry, Service, TakenError
from controlplane.plan.ir import Endpoint

AT = datetime(2026, 1, 1, tzinfo=UTC)
NOBODY = Registry()


def said(
    name: str = "one", provider: str = "farm", port: int = 8001, *, capacity: int = 4, ttl: float = 30
) -> Announced:
    return Announced(name, provider, Endpoint("10.0.0.7", port), ("llama",), ("chat",), capacity, ttl)


def joined(*all_said: Announced, now: float = 0) -> Registry:
    made = NOBODY
    for each in all_said:
        made, _ = registry.join(made, each, now, AT)
    return made


def only(made: Registry) -> Service:
    (service,) = made.services.values()
    return service


def test_a_service_joins_and_leaves() -> None:
    made, gone = registry.join(NOBODY, said(), 5, AT)
    assert (only(made).said, gone) == (said(), ())
    assert only(made).found == Found(Endpoint("10.0.0.7", 8001), 400, 400, ("llama",))
    assert registry.leave(made, "one") == NOBODY
    with pytest.raises(KeyError):
        registry.leave(NOBODY, "one")


def test_who_starts_anew_says_what_counts() -> None:
    busy = registry.heartbeat(joined(said()), "one", Load(40, 4), None, 1)
    again, gone = registry.join(busy, said(capacity=8), 2, datetime(2026, 1, 2, tzinfo=UTC))
    assert gone == ()
    assert (only(again).weight, only(again).load, only(again).joined) == (800, Load(), AT)


def test_one_address_is_one_endpoint() -> None:
    made, gone = registry.join(joined(said("old"), said("other", port=8002)), said("new"), 1, AT)
    assert [service.said.id for service in gone] == ["old"]
    assert [service.said.id for service in made.of("farm")] == ["new", "other"]
    assert len(joined(said("a", "farm"), said("b", "shelf")).services) == 2, "another provider is another matter"


def test_an_id_belongs_to_one_provider() -> None:
    with pytest.raises(TakenError):
        registry.join(joined(said()), said(provider="shelf"), 1, AT)


def test_a_provider_has_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MOST", 2)
    full = joined(said("a", port=1), said("b", port=2))
    with pytest.raises(FullError):
        registry.join(full, said("c", port=3), 1, AT)
    assert len(registry.join(full, said("c", port=2), 1, AT)[0].services) == 2, "it takes the place of another"
    assert len(registry.join(full, said("a", port=3), 1, AT)[0].services) == 2, "it is there already"


def test_the_silent_leave_when_their_time_is_over() -> None:
    made = joined(said("quick", port=1, ttl=1), said("slow", port=2, ttl=10))
    assert registry.next_expiry(made) == 1
    assert registry.expire(made, 0.9) == (made, ())
    made, gone = registry.expire(made, 1)
    assert [service.said.id for service in gone] == ["quick"]
    made = registry.heartbeat(made, "slow", Load(), None, 9)
    assert registry.expire(made, 18.9)[1] == ()
    assert registry.expire(made, 19)[0] == NOBODY
    assert registry.next_expiry(NOBODY) is None
    with pytest.raises(KeyError):
        registry.heartbeat(made, "quick", Load(), None, 9)


_names = st.sampled_from(["a", "b", "c"])
_steps = st.one_of(
    st.tuples(st.just("join"), _names, st.sampled_from(["farm", "shelf"]), st.integers(1, 3), st.integers(1, 9)),
    st.tuples(st.just("heartbeat"), _names, st.integers(0, 99)),
    st.tuples(st.just("leave"), _names),
    st.tuples(st.just("expire")),
)


@given(st.lists(st.tuples(_steps, st.floats(0, 3)), max_size=40))
def test_whatever_happens(steps: list[tuple[tuple[object, ...], float]]) -> None:
    made, now = NOBODY, 0.0
    for step, later in steps:
        now += later
        match step:
            case ("join", str(name), str(provider), int(port), int(ttl)):
                try:
                    made, gone = registry.join(made, said(name, provider, port, ttl=ttl), now, AT)
                except TakenError:
                    assert made.services[name].said.provider != provider
                else:
                    assert made.services[name].heard_s == now
                    assert not {each.said.id for each in gone} & made.services.keys()
            case ("heartbeat", str(name), int(queue)) if name in made.services:
                made = registry.heartbeat(made, name, Load(queue), None, now)
                assert made.services[name].until_s > now
            case ("leave", str(name)) if name in made.services:
                made = registry.leave(made, name)
                assert name not in made.services
            case ("expire",):
                made, gone = registry.expire(made, now)
                assert all(service.until_s <= now for service in gone)
                assert all(service.until_s > now for service in made.services.values())
        _always(made)


def _always(made: Registry) -> None:
    assert all(name == service.said.id for name, service in made.services.items())
    places = [(service.said.provider, service.said.endpoint) for service in made.services.values()]
    assert len(set(places)) == len(places), "an address stands twice among the endpoints of a provider"
    for service in made.services.values():
        assert 1 <= service.weight <= weights.full(service.said.capacity)
    again, files = kept.read(kept.dump(made, {}), 7)
    assert {n: (s.said, s.joined, s.heard_s) for n, s in again.services.items()} == {
        n: (s.said, s.joined, 7) for n, s in made.services.items()
    }
    assert files == {}


@given(st.integers(1, 10_000), st.lists(st.integers(0, 1_000_000), max_size=30))
def test_weights_follow_queues(capacity: int, queues: list[int]) -> None:
    queue, told = 0.0, weights.full(capacity)
    for reported in queues:
        queue = weights.smoothed(queue, reported, capacity)
        told = weights.told(told, capacity, queue)
        assert 0 <= queue <= max(queues)
        assert weights.weight(capacity, queue) <= 1.25 * told <= 1.25**2 * weights.weight(capacity, queue) + 1
    for _ in range(40):
        queue = weights.smoothed(queue, 0, capacity)
    assert weights.told(told, capacity, queue) == weights.full(capacity), "idle again: nothing is held against it"


def test_weights_by_example() -> None:
    assert weights.weight(8, 0) == weights.full(8) == 800
    assert weights.weight(8, 8) == 400
    assert weights.told(800, 8, 1.0) == 800, "a little more is not worth a push"
    assert weights.told(800, 8, 4.0) == 533


def test_what_was_kept_is_read_or_refused() -> None:
    listed = {"a.yaml": (Found(Endpoint("10.0.0.1", 1), 3, 3, ("m",)),)}
    assert kept.read(kept.dump(NOBODY, listed), 0) == (NOBODY, listed)
    for damaged in (
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"version":1,"services":[{}],"files":{}}',
        b'{"version":1,"services":3}',
    ):
        with pytest.raises(kept.KeptError, match="damaged"):
            kept.read(damaged, 0)
    with pytest.raises(kept.KeptError, match="version 2"):
        kept.read(b'{"version":2}', 0)
