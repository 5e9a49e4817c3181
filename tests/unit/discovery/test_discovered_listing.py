"""Files of endpoints: read strictly, told with places."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.discovery.found import Found
from controlplane.discovery.listed import read
from controlplane.plan.ir import Endpoint
from controlplane.policy.diagnostics import PolicyError


def test_a_file_lists_endpoints() -> None:
    text = 'endpoints:\n  - 10.0.0.8:80\n  - {address: "[fd00::7]:80", weight: 2, models: [a]}\n  - 10.0.0.7:80\n'
    assert read(text, "f.yaml") == (
        Found(Endpoint("10.0.0.7", 80)),
        Found(Endpoint("10.0.0.8", 80)),
        Found(Endpoint("fd00::7", 80), 2, 2, ("a",)),
    )
    assert read('{"endpoints": ["10.0.0.7:80"]}', "f.json") == (Found(Endpoint("10.0.0.7", 80)),)
    assert read("endpoints: []", "f.yaml") == ()


@pytest.mark.parametrize(
    ("text", "code", "place", "words"),
    [
        ("", "no-endpoints", "f.yaml:1:1", "empty"),
        ("- 10.0.0.7:80", "no-endpoints", "f.yaml:1:1", "a list"),
        ("{}", "missing-field", "f.yaml:1:1", "`endpoints`"),
        ("endpoints: [10.0.0.7]", "invalid-value", "f.yaml:1:13", "10.0.0.7"),
        ("endpoints:\n- farm.internal:80", "invalid-value", "f.yaml:2:3", "farm.internal"),
        ("endpoints:\n- {address: 10.0.0.7:80, wait: 2}", "unknown-field", "f.yaml:2:26", "`wait`"),
        ("endpoints:\n- {address: 10.0.0.7:80, weight: 0}", "out-of-range", "f.yaml:2:34", "0"),
        ("endpoints:\n- 10.0.0.7:80\n- {address: 10.0.0.7:80}", "duplicate-item", "f.yaml:3:3", "twice"),
        ("endpoints: [10.0.0.7:80", "invalid-yaml", "f.yaml:2:1", "YAML"),
        (b"\xff", "not-utf8", "f.yaml:1:1", "UTF-8"),
    ],
)
def test_what_is_wrong_has_a_place(text: str | bytes, code: str, place: str, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        read(text, "f.yaml")
    (found,) = caught.value.errors
    assert (found.code, str(found.place)) == (code, place)
    assert words in found.message


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60), st.text("endpoints:-[]{}\n 10.78,aw", max_size=60)))
def test_no_text_is_too_much(text: str | bytes) -> None:
    try:
        found = read(text, "f.yaml")
    except PolicyError as error:
        assert error.errors
    else:
        assert len({each.endpoint for each in found}) == len(found)
