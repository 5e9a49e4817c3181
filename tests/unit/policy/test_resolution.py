"""References followed: what comes out, in any order and of any length, and how much of it there may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.policy.check import Checked, check
from controlplane.policy.language import DEFAULT_ON, Policy, Target, Timeouts
from controlplane.policy.references import MAX_TARGETS

HEAD = """\
version: 1
providers:
  p: {kind: mock}
  q: {kind: openai, base_url: "http://127.0.0.1:1"}
keys: {k: {secret: {env: K}}}
models:
"""


def checked(models: str) -> Checked:
    return check(HEAD + models, "policy.yaml")


def policy(models: str) -> Policy:
    found = checked(models)
    assert found.policy is not None, found.diagnostics
    return found.policy


def groups(models: str, name: str = "m") -> tuple[tuple[Target, ...], ...]:
    return policy(models).models[name].groups


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("p", ((Target("p", None),),)),
        ("{provider: p}", ((Target("p", None),),)),
        ("{provider: p, model: up}", ((Target("p", "up"),),)),
        ("one", ((Target("p", "up"),),)),
        ("same", ((Target("q", "same"),),)),
        ("{try: [p, {provider: q, model: x}]}", ((Target("p", None),), (Target("q", "x"),))),
        ("{try: [[p, one], same]}", ((Target("p", None), Target("p", "up")), (Target("q", "same"),))),
        ("{try: [[{provider: p, weight: 9}, q]]}", ((Target("p", None, 9), Target("q", None)),)),
        ("{try: [several, one]}", ((Target("p", "a"),), (Target("q", "b"),), (Target("p", "up"),))),
        ("several", ((Target("p", "a"),), (Target("q", "b"),))),
    ],
)
def test_every_form_comes_down_to_groups_of_targets(form: str, expected: tuple[tuple[Target, ...], ...]) -> None:
    rest = (
        "  one: {provider: p, model: up}\n  same: q\n"
        "  several: {try: [{provider: p, model: a}, {provider: q, model: b}]}\n"
    )
    assert groups(f"  m: {form}\n{rest}") == expected
    assert groups(f"{rest}  m: {form}\n") == expected


def test_a_provider_wins_over_a_model_of_its_name() -> None:
    assert groups("  p: {provider: q, model: other}\n  m: p\n") == ((Target("p", None),),)


def test_an_alias_keeps_what_its_model_says() -> None:
    found = policy("  m: other\n  other: {provider: p, retries: 3, on: [429], timeouts: {first_byte: 2s}}\n").models
    assert found["m"].retries == 3
    assert found["m"].on == (429,)
    assert found["m"].timeouts.first_byte == 2000


def test_what_is_not_said_has_a_default() -> None:
    found = policy("  m: p\n").models["m"]
    assert (found.on, found.retries, found.timeouts) == (DEFAULT_ON, None, Timeouts())


@given(st.permutations(range(40)))
def test_the_order_of_models_changes_nothing(order: list[int]) -> None:
    lines = {n: f"  m{n}: m{n + 1}\n" for n in range(39)} | {39: "  m39: {provider: p, model: end}\n"}
    found = policy("".join(lines[n] for n in order)).models
    assert {model.groups for model in found.values()} == {((Target("p", "end"),),)}


def test_a_long_chain_is_followed_and_a_long_circle_is_told() -> None:
    chain = "".join(f"  m{n}: m{n + 1}\n" for n in range(5000))
    assert groups(f"{chain}  m5000: p\n", "m0") == ((Target("p", "m5000"),),)
    (told,) = checked(f"{chain}  m5000: m0\n").diagnostics
    assert told.code == "cycle"
    assert len(told.message) < 200


def test_each_of_two_circles_is_told_once() -> None:
    told = checked("  a: b\n  b: {try: [a, a]}\n  c: [c]\n".replace("[c]", "c") + "  d: a\n").diagnostics
    assert [each.message.partition(": ")[2] for each in told] == ["a -> b -> a", "c -> c"]


def test_references_cannot_be_made_to_explode() -> None:
    doubling = "".join(f"  m{n + 1}: {{try: [m{n}, m{n}]}}\n" for n in range(60))
    (told,) = checked("  m0: p\n" + doubling).diagnostics
    assert told.code == "too-many-targets"
    fits = ", ".join(["p"] * MAX_TARGETS)
    assert len(groups(f"  m: {{try: [[{fits}]]}}\n")[0]) == MAX_TARGETS


def test_what_refers_to_a_model_with_errors_is_not_told_too() -> None:
    (told,) = checked("  a: b\n  b: {provider: p, retries: many}\n  c: {try: [b, p]}\n").diagnostics
    assert told.code == "wrong-type"


@given(st.text("ab*", max_size=4), st.lists(st.from_regex(r"[ab]{1,3}\*?", fullmatch=True), unique=True, min_size=1))
def test_a_pattern_that_matches_nothing_is_warned_of(pattern: str, models: list[str]) -> None:
    """The names that a pattern and a model stand for are told apart by trying: all words of up to five letters."""
    if not pattern or "*" in pattern[:-1]:
        return
    text = HEAD.replace("{env: K}}", f"{{env: K}}, models: ['{pattern}']}}") + "".join(f"  '{m}': p\n" for m in models)
    told = {each.code for each in check(text, "f").diagnostics}
    assert told == (set() if any(_meet(pattern, model) for model in models) else {"matches-nothing"})


def _meet(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=lambda each: len(each.removesuffix("*")))
    if short.endswith("*"):
        return long.startswith(short[:-1])
    return short == long or (long == short + "*")


def test_no_keys_in_either_way_is_an_open_gateway() -> None:
    for without in ("", "keys: {}\n"):
        text = HEAD.replace("keys: {k: {secret: {env: K}}}\n", without) + "  m: p\n"
        assert [each.code for each in check(text, "f").diagnostics] == ["open-gateway"]
