"""Facts of several sources become one, and those of several targets what a client can rely on."""

from hypothesis import given
from hypothesis import strategies as st

from controlplane.metadata import facts
from controlplane.metadata.facts import OPAQUE, UNSUPPORTED, Fact, Layer, Source, merge
from controlplane.metadata.rely import rely, together
from extproc.stages.parameters import Kind, Parameter

_NUMBERS = st.integers(-3, 3)


@st.composite
def _ranges(draw: st.DrawFn) -> Parameter:
    least, most = sorted((draw(_NUMBERS), draw(_NUMBERS)))
    return Parameter(Kind.MUTABLE, least=draw(st.sampled_from((None, least))), most=draw(st.sampled_from((None, most))))


_FIXED = _NUMBERS.map(lambda value: Parameter(Kind.READ_ONLY, value=value))
_PARAMETERS = st.one_of(st.just(OPAQUE), st.just(UNSUPPORTED), _FIXED, _ranges())
_SOURCES = st.builds(Source, st.sampled_from(Layer), st.sampled_from("abc"))
_FACTS = st.lists(
    st.one_of(
        st.builds(Fact, st.sampled_from((facts.CONTEXT, facts.OUTPUT)), st.integers(1, 9), _SOURCES),
        st.builds(facts.parameter, st.sampled_from(("temperature", "*")), _PARAMETERS, _SOURCES),
    )
)


@given(_FACTS, _FACTS, _FACTS)
def test_merging_is_associative(one: list[Fact], two: list[Fact], three: list[Fact]) -> None:
    whole = merge(one, two, three)
    assert whole == merge(merge(one, two).values(), three) == merge(one, merge(two, three).values())


@given(_FACTS, _FACTS)
def test_a_value_comes_with_its_own_source_and_the_latest_layer_counts(one: list[Fact], two: list[Fact]) -> None:
    told = [*one, *two]
    for name, fact in merge(one, two).items():
        rivals = [each for each in told if each.name == name]
        assert any(fact is each for each in rivals)
        assert fact.source.layer == max(each.source.layer for each in rivals)
        latest = [each for each in rivals if each.source.layer == fact.source.layer]
        assert fact is latest[-1]


@given(st.lists(_FACTS, min_size=1, max_size=4))
def test_what_a_client_relies_on_holds_for_every_target(targets: list[list[Fact]]) -> None:
    known = [merge(target) for target in targets]
    found = rely(known)
    for name in (facts.CONTEXT, facts.OUTPUT):
        said = [target[name].value for target in known if name in target]
        assert (name in found) is bool(said)
        assert not said or found[name].value == min(said)
    for fact in facts.parameters(found).values():
        told = [mine for target in known if (mine := facts.parameters(target).get("temperature")) is not None]
        if fact.name == "parameters.temperature" and fact.value.kind is Kind.READ_ONLY:
            assert all(each.value.problem(fact.value.value) is None for each in told)


@given(_PARAMETERS, _PARAMETERS, _NUMBERS)
def test_what_two_targets_take_both_take(one: Parameter, other: Parameter, value: int) -> None:
    found = together([one, other])
    assert found.kind is Kind.READ_ONLY or found == together([other, one])
    if found.kind is not Kind.OPAQUE and found.problem(value) is None:
        assert one.problem(value) is None
        assert other.problem(value) is None


@given(_ranges(), _ranges(), _NUMBERS)
def test_of_two_ranges_nothing_is_lost(one: Parameter, other: Parameter, value: int) -> None:
    if one.problem(value) is None and other.problem(value) is None:
        assert together([one, other]).problem(value) is None


def test_the_source_says_whose_value_it_is_and_who_is_silent() -> None:
    first = merge(
        [Fact(facts.CONTEXT, 8, Source(Layer.CATALOG, "one")), Fact(facts.PRICE, {}, Source(Layer.FILE, "x"))]
    )
    second = merge([Fact(facts.CONTEXT, 4, Source(Layer.PROVIDER, "two"))])
    found = rely([first, second, {}])
    assert found == {facts.CONTEXT: Fact(facts.CONTEXT, 4, Source(Layer.PROVIDER, "two; 1 of 3 targets does not say"))}
