"""Delays and faults: what is written is what is drawn, and the same seed draws the same."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecars.mock.controls import Controls
from sidecars.mock.delays import Distribution, delay
from sidecars.mock.faults import Fates
from sidecars.mock.steps import FAULTS, Rate, fault, rates, script

MS = st.integers(1, 10_000)


@pytest.mark.parametrize(
    ("text", "p50", "p99"),
    [
        ("uniform(100ms,300ms)", 0.2, 0.298),
        ("normal(200ms,400ms)", 0.2, 0.4),
        ("lognormal(300ms,2s)", 0.3, 2.0),
        ("exponential(100ms)", 0.0693, 0.4605),
        ("empirical(10ms,20ms,20ms,1s)", 0.02, 1.0),
    ],
)
def test_percentiles_are_those_that_were_asked_for(text: str, p50: float, p99: float) -> None:
    made = delay(text)
    assert isinstance(made, Distribution)
    chance = Random(3)
    drawn = sorted(made.draw(chance) for _ in range(20_000))
    assert drawn[10_000] == pytest.approx(p50, rel=0.03)
    assert drawn[19_800] == pytest.approx(p99, rel=0.1)


@given(kind=st.sampled_from(["uniform", "normal", "lognormal"]), low=MS, more=MS, seed=st.integers(0))
def test_draws_are_times(kind: str, low: int, more: int, seed: int) -> None:
    made = delay(f"{kind}({low}ms, {low + more}ms)")
    assert isinstance(made, Distribution)
    drawn = made.draw(Random(seed))
    assert 0 <= drawn <= 3600
    assert drawn == made.draw(Random(seed))


@pytest.mark.parametrize(
    "text",
    ["", "5", "fast", "uniform(5ms)", "uniform(2s,1s)", "lognormal(0ms,1s)", "exponential(0s)", "empirical()",
     "exponential(1s,2s)", "gamma(1s)", "normal(1s,2s", "uniform(-1s,2s)"],
)  # fmt: skip
def test_what_is_no_delay_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|smaller first|above 0"):
        delay(text)


@given(st.lists(st.tuples(st.sampled_from([*FAULTS, "503"]), st.integers(1, 4)), min_size=1, max_size=6), st.booleans())
def test_a_script_gives_its_steps_in_turn(steps: list[tuple[str, int]], stays: bool) -> None:
    made = script(", ".join(f"{name}*{times}" for name, times in steps) + ("..." if stays else ""))
    written = [name for name, times in steps for _ in range(times)]
    seen = [made.step(number) for number in range(2 * len(written))]
    assert seen == written + ([written[-1]] * len(written) if stays else written)


@pytest.mark.parametrize("text", ["", "oh", "ok,", "ok*0", "600", "ok..., 503", "ok*9999999", "ok 503"])
def test_what_is_no_script_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"steps|last step"):
        script(text)


@given(st.lists(st.floats(0.01, 0.2), min_size=1, max_size=4), st.floats(0, 1, exclude_max=True))
def test_a_share_of_the_numbers_is_a_fault(shares: list[float], drawn: float) -> None:
    made = [Rate(str(500 + number), share) for number, share in enumerate(shares)]
    edges = [sum(shares[: number + 1]) for number in range(len(shares))]
    expected = next((str(500 + number) for number, edge in enumerate(edges) if drawn < edge - 1e-9), "ok")
    if all(abs(drawn - edge) > 1e-9 for edge in edges):
        assert fault(made, drawn) == expected


@pytest.mark.parametrize("text", ["503", "503=2", "ok=0.1", "503=0.6,500=0.6", "503=-1", "crash=0.1", "503=0"])
def test_what_are_no_rates_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"rates|status"):
        rates(text)


def test_the_nth_request_gets_the_nth_fate_however_requests_mix() -> None:
    """What one request draws for its chunks does not move what the next one gets."""
    asked = Controls(delay=delay("exponential(1s)"), chunk_delay=delay("uniform(0ms,9s)"), errors=rates("503=0.5"))

    def fates(chunks: int) -> list[tuple[float, int]]:
        source, found = Fates(11), []
        for _ in range(50):
            fate = source.decide(asked, "m")
            assert fate.waits is not None
            for _ in range(chunks):
                next(fate.waits)
            found.append((fate.delay, fate.controls.status))
        return found

    assert fates(0) == fates(7)
    assert {status for _, status in fates(0)} == {200, 503}
    assert Fates(12).decide(asked, "m").delay != fates(0)[0][0]


def test_each_model_has_a_turn_of_its_own() -> None:
    source, asked = Fates(0), Controls(script=script("ok, 503"))
    seen = [source.decide(asked, model).controls.status for model in ("a", "b", "a", "b")]
    assert seen == [200, 200, 503, 503]


def test_a_request_without_any_of_it_is_not_counted() -> None:
    source, plain = Fates(0), Controls(delay=0.5)
    fate = source.decide(plain, "m")
    assert (fate.controls, fate.delay, fate.waits) == (plain, 0.5, None)
    first = Fates(0).decide(Controls(delay=delay("exponential(1s)")), "m").delay
    assert source.decide(Controls(delay=delay("exponential(1s)")), "m").delay == first
