import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.stages import settings
from extproc.stages.parameters import WARNING, Kind, Model, Parameter, Parameters, Settings, parameters_of
from extproc.stages.protocol import Access, Outcome
from extproc.stages.settings import SettingsError
from extproc.usage.price_catalog import load_catalog
from tests.unit.stages.given import asked

RULES = {
    "temperature": {"kind": "read_only", "value": 1},
    "max_tokens": {"kind": "mutable", "least": 1, "most": 100},
    "logprobs": {"kind": "unsupported"},
    "tools": {"kind": "opaque"},
    "seed": {"kind": "mutable"},
}


def stage(**document: Any) -> Parameters:
    document.setdefault("models", {"o3*": {"parameters": RULES}})
    return Parameters(settings.parse(Settings, json.dumps(document).encode(), "test"))


def judged(body: dict[str, Any], model: str = "o3", **document: Any) -> Outcome:
    return stage(**document).request(asked({"model": model} | body, model=model))


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ({"temperature": 1}, None, ""),
        ({"temperature": 1.0}, None, ""),
        ({"temperature": True}, "unsupported_value", "fixed at 1"),
        ({"temperature": 0.5}, "unsupported_value", "'temperature' is fixed at 1 for this model."),
        ({"max_tokens": 100}, None, ""),
        ({"max_tokens": 101}, "unsupported_value", "at most 100"),
        ({"max_tokens": 0}, "unsupported_value", "at least 1"),
        ({"max_tokens": "9"}, "unsupported_value", "must be a number"),
        ({"max_tokens": None}, None, ""),
        ({"logprobs": True}, "unsupported_parameter", "not supported"),
        ({"logprobs": None}, None, ""),
        ({"tools": 7, "seed": "x", "other": []}, None, ""),
    ],
)
def test_error_names_the_parameter(body: dict[str, Any], code: str | None, told: str) -> None:
    refusal = judged(body).refusal
    if code is None:
        assert refusal is None
    else:
        assert refusal is not None and told in refusal.message
        assert (refusal.status, refusal.code, refusal.param) == (400, code, next(iter(body)))


def test_drop_takes_it_out_and_says_so() -> None:
    out = judged({"logprobs": True, "temperature": 0, "seed": 1}, action="drop")
    assert json.loads(out.body or b"") == {"model": "o3", "seed": 1}
    assert out.answer_headers[WARNING] == (
        "logprobs is not supported by this model, dropped; temperature is fixed at 1 for this model, dropped"
    )
    assert out.metadata == {"parameters": {"logprobs": "drop", "temperature": "drop"}}


def test_warn_and_ignore_pass_it_on() -> None:
    out = judged({"logprobs": True}, action="warn")
    assert out.body is None and "not supported" in out.answer_headers[WARNING]
    out = judged({"logprobs": True}, action="ignore")
    assert out.body is None and not out.answer_headers and out.metadata == {"parameters": {"logprobs": "ignore"}}


def test_each_parameter_may_have_its_own_action() -> None:
    actions = {"logprobs": "drop"}
    assert judged({"logprobs": True}, action="error", actions=actions).refusal is None
    assert judged({"logprobs": True, "max_tokens": 0}, action="error", actions=actions).refusal is not None


def test_what_is_not_listed_is_passed_on_or_not() -> None:
    strict = {"*": {"parameters": {"n": {"kind": "opaque"}}, "others": "unsupported"}}
    out = judged({"n": 2, "weird\n\u00e9": 1, "messages": [], "stream": True}, models=strict, action="drop")
    assert json.loads(out.body or b"") == {"model": "o3", "n": 2, "messages": [], "stream": True}
    assert out.answer_headers[WARNING].startswith("weird?? is not supported")


def test_other_models_are_left_alone() -> None:
    assert judged({"logprobs": True}, model="gpt-4o").refusal is None


def test_reading_is_enough_to_warn() -> None:
    assert stage(action="warn").needs.request is Access.READ
    assert stage(action="warn", actions={"n": "drop"}).needs.request is Access.CHANGE


@given(
    st.dictionaries(
        st.text(max_size=5) | st.sampled_from(list(RULES)),
        st.none() | st.integers() | st.text() | st.lists(st.none()),
        max_size=6,
    )
)
def test_after_drop_there_is_nothing_to_find(body: dict[str, Any]) -> None:
    one = stage(action="drop")
    request = asked(json.dumps(body).encode(), model="o3")
    out = one.request(request)
    if out.body is not None:
        assert one.request(request.changed(out.body)).body is None


def test_the_catalog_tells_what_models_take() -> None:
    models = {model.name: parameters_of(model) for model in load_catalog().models}
    assert models["o3"]["temperature"] == Parameter(Kind.READ_ONLY, value=1)
    assert models["o3"]["max_tokens"].kind is Kind.UNSUPPORTED
    assert models["o3"]["max_completion_tokens"].most == 100_000
    assert models["gpt-4o"]["max_tokens"].most == 16_384
    assert models["gpt-4o"]["reasoning_effort"].kind is Kind.UNSUPPORTED
    assert "tools" not in models["gpt-4o"]
    assert models["claude-opus-4-8"]["temperature"] == Parameter(Kind.MUTABLE, least=0, most=1)
    for known in models.values():
        Model(parameters=known)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"n": {"kind": "no"}}, r"models\.m\.parameters\.n\.kind: Input should be 'mutable'"),
        ({"n": {"kind": "opaque", "most": 1}}, "least and most are for kind mutable"),
        ({"n": {"kind": "opaque", "value": 1}}, "value is for kind read_only"),
        ({"n": {"kind": "mutable", "least": 2, "most": 1}}, "least is 2, above most, 1"),
        ({"messages": {"kind": "opaque"}}, "messages cannot be judged"),
    ],
)
def test_settings_that_cannot_be(parameters: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        stage(models={"m": {"parameters": parameters}})
