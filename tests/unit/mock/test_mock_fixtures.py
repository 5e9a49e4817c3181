"""Fixtures: what can be written, what is refused and where, and which one a request gets."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidecars.mock.fixtures.library import Asked, Library
from sidecars.mock.fixtures.load import FixturesError, parsed, read
from sidecars.recording.exchange import Answer, Body, Exchange, Request, Times
from tests.support.mock import ROOT

NAMES = st.sampled_from(["gpt-4o", "gpt-4o-mini", "claude", "m"])
WORDS = st.sampled_from(["hello", "weather in Rome", "bye", ""])


def asked(said: str = "hi", model: str = "m", path: str = "/v1/chat/completions", **fields: Any) -> Asked:
    data = {"model": model, "messages": [{"role": "user", "content": said}], **fields}
    return Asked(path, model, {"x-tenant": "acme"}, data, "d")


def library(fixtures: list[dict[str, Any]]) -> Library:
    return Library(parsed(yaml.safe_dump({"fixtures": fixtures}), "f.yaml"))


def answer(found: Library, request: Asked) -> str | None:
    canned = found.find(request)
    return None if canned is None else canned.text


def problems(text: str, file: str = "f.yaml") -> list[str]:
    with pytest.raises(FixturesError) as caught:
        parsed(text, file)
    return [str(problem) for problem in caught.value.problems]


@given(
    st.lists(
        st.fixed_dictionaries({}, optional={"model": NAMES | st.just("gpt-*"), "user": WORDS, "stream": st.booleans()}),
        max_size=6,
    ),
    NAMES, WORDS, st.booleans(),
)  # fmt: skip
def test_the_first_match_wins(matches: list[dict[str, Any]], model: str, said: str, stream: bool) -> None:
    def fits(match: dict[str, Any]) -> bool:
        pattern = match.get("model", "*")
        named = model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern
        return named and match.get("user", said) == said and match.get("stream", stream) == stream

    found = library([{"match": match, "answer": {"text": str(n)}} for n, match in enumerate(matches)])
    expected = next((str(number) for number, match in enumerate(matches) if fits(match)), None)
    assert answer(found, asked(said, model, stream=stream)) == expected


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({"user_matches": "weather in \\w+"}, True),
        ({"user_matches": "^in"}, False),
        ({"path": "/v1/chat/*"}, True),
        ({"path": "/v1/embeddings"}, False),
        ({"headers": {"X-Tenant": "ac*"}}, True),
        ({"headers": {"x-tenant": "other"}}, False),
        ({"headers": {"x-absent": "*"}}, False),
        ({}, True),
    ],
)
def test_matchers(match: dict[str, Any], fits: bool) -> None:
    found = library([{"match": match, "answer": {"text": "yes"}}])
    assert (answer(found, asked("the weather in Rome")) == "yes") is fits


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]}, "a"),
        ({"input": "a"}, "a"),
        ({"input": [{"role": "user", "content": "a"}]}, "a"),
        ({"input": ["b", "a"]}, "a"),
        ({"prompt": "a"}, "a"),
        ({"query": "a", "documents": ["b"]}, "a"),
    ],
)
def test_the_last_user_message_of_every_api(data: dict[str, Any], said: str) -> None:
    found = library([{"match": {"user": said}, "answer": {"text": "yes"}}])
    assert answer(found, Asked("/v1/x", "m", {}, data, "d")) == "yes"


@pytest.mark.parametrize(
    ("after", "seen"),
    [(None, "abbbb"), ("stay", "abbbb"), ("repeat", "abbab"), ("pass", "abbcc")],
)
def test_answers_in_turn(after: str | None, seen: str) -> None:
    sequence: dict[str, Any] = {"answers": [{"text": "a"}, {"text": "b", "times": 2}]}
    if after is not None:
        sequence["after"] = after
    found = library([sequence, {"answer": {"text": "c"}}])
    assert "".join(answer(found, asked()) or "-" for _ in range(5)) == seen


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fixtures:\n- answer: {txt: a}", "f.yaml:2: fixtures.0.answer.txt: there is no such field"),
        ("- match:\n    model: 3\n  answer: {text: a}", "f.yaml:2: fixtures.0.match.model: Input should be"),
        ("- match: {user_matches: '('}\n  answer: {}", "f.yaml:1: fixtures.0.match.user_matches: expected a regular"),
        ("- answer:\n    text: a\n    body: b", "f.yaml:1: fixtures.0.answer: text and body exclude each other"),
        ("- match: {}", "f.yaml:1: fixtures.0: expected `answer` or `answers`"),
        ("- answer: {delay: soon}", "f.yaml:1: fixtures.0.answer.delay: expected a duration such as"),
        ("- answer: {fault: crash}", "f.yaml:1: fixtures.0.answer.fault: expected a status"),
        ("- answer: {chunks: [{text: a}, {data: b}]}", "f.yaml:1: fixtures.0.answer: chunks are all"),
        ("- answer: {status: 503, text: a}", "f.yaml:1: fixtures.0.answer: an answer with status 503 can have"),
        ("- answer: {text: a}\n  after: repeat", "f.yaml:1: fixtures.0: `after` goes with `answers`"),
        ("a: 1\nfixtures: []\na: 2", "f.yaml:3: `a` stands here twice"),
        ("fixtures: ]", "f.yaml:1: not YAML"),
        ("", "f.yaml:1: the file: expected a mapping"),
        ("7", "f.yaml:1: the file: expected a mapping"),
    ],
)  # fmt: skip
def test_mistakes_have_a_line(text: str, said: str) -> None:
    found = problems(text)
    assert any(each.startswith(said) for each in found), found


def test_mistakes_in_json_have_a_line_too() -> None:
    assert problems('{"fixtures": [\n {"answer": {"txt": 1}}]}', "f.json")[0].startswith(
        "f.json:2: fixtures.0.answer.txt"
    )
    assert problems('{"fixtures":\n oops}', "f.json") == ["f.json:2: not JSON: Expecting value"]


def test_a_recording_may_have_any_character_in_its_texts() -> None:
    exchange = Exchange(
        id="i", at="2026-01-02T03:04:05Z", model="m", provider="p",
        request=Request(method="POST", path="/v1/completions", headers={}, body=Body(text="{}")),
        answer=Answer(status=200, headers={}, body=Body(text="a\u2028b\x85c\x0bd")),
        ms=Times(headers=1, first=1, total=1),
    )  # fmt: skip
    assert len(parsed((exchange.line() * 2).decode(), "f.jsonl")) == 2


@given(st.text(max_size=60), st.sampled_from(["f.yaml", "f.json", "f.jsonl"]))
def test_any_text_is_read_or_refused(text: str, file: str) -> None:
    try:
        parsed(text, file)
    except FixturesError as error:
        assert error.problems


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["fixtures", "match", "answer", "answers", "text", "chunks", "usage", "user"]),
                        inner, max_size=4), max_leaves=12))  # fmt: skip
def test_any_document_is_read_or_refused(data: Any) -> None:
    try:
        parsed(json.dumps(data), "f.json")
    except FixturesError as error:
        assert error.problems


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    for name in ("b.yaml", "a/z.yml", "a.json"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps([{"answer": {"text": name}}]))
    (tmp_path / ".hidden.yaml").write_text("{")
    (tmp_path / "README.md").write_text("not a fixture")
    assert answer(Library(read(tmp_path)), asked()) == "a/z.yml"


def test_a_folder_that_is_absent_is_told(tmp_path: Path) -> None:
    with pytest.raises(FixturesError, match="No such file"):
        read(tmp_path / "absent")


def test_the_fixtures_of_the_documentation_are_right() -> None:
    page = (ROOT / "docs/mock.md").read_text(encoding="utf-8")
    snippets = [part.partition("```")[0] for part in page.split("```yml\n")[1:]]
    assert snippets
    for snippet in snippets:
        assert parsed(snippet, "f.yaml")
