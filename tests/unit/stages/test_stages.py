"""What holds for every stage: its settings are a document, it has a page, it stands any request, answer and stream."""

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.stages import settings
from extproc.stages.around import Around
from extproc.stages.book import NO_BOOK
from extproc.stages.protocol import Access, Endpoint, Needs, Refusal, Stage, opened
from extproc.stages.registry import KINDS, build
from extproc.stages.settings import SettingsError
from extproc.stages.sse import Splitter, data_of, with_data
from extproc.usage.webhooks.endpoints import Endpoint as Hook
from tests.unit.stages.given import CUTS, asked, chunked, fed

ROOT = Path(__file__).parents[3]
DOCUMENTS: dict[str, Any] = {
    "cache": {"ttl_s": 60, "scope": "shared", "semantic": {"model": "e"}},
    "choice": {"rules": [{"when": {"has": ["tools"], "tokens": {"least": 1}}, "model": "x"}]},
    "parameters": {"models": {"*": {"others": "unsupported"}}, "action": "drop"},
    "safety": {"rules": [{"find": ["email", "credit_card"], "action": "mask"}], "injection": {}},
    "saving": {"history": {"turns": 1, "tokens": 5}, "white_space": "all", "warn": {"tokens": 1}},
    "tokens": {"models": {"*": {"window": 20}}},
    "transform": {
        "operations": [
            {"set": {"metadata.team": "{team}"}},
            {"max_tokens": {"most": 5, "add": True}},
            {"system": {"text": "x", "mode": "append"}},
            {"remove_from_answer": ["id", "choices[*].logprobs"]},
        ]
    },
    "validation": {"limits": {"text": 5, "images": 0}},
    "webhook": {"to": "guard"},
}
AROUND = Around(NO_BOOK, {"guard": Hook("guard", "http://127.0.0.1:9/", "whsec_" + "A" * 32)})
STAGES: dict[str, Stage] = {
    name: build(name, json.dumps(document).encode(), "t", AROUND) for name, document in DOCUMENTS.items()
}


@pytest.mark.parametrize("name", KINDS)
def test_settings_are_a_document_and_back(name: str) -> None:
    made = settings.parse(KINDS[name].settings, json.dumps(DOCUMENTS[name]).encode(), "t")
    again = settings.parse(KINDS[name].settings, settings.dump(made), "t")
    assert again == made
    with pytest.raises(SettingsError, match="t: no_such_field: Unexpected"):
        build(name, json.dumps(DOCUMENTS[name] | {"no_such_field": 1}).encode(), "t")
    with pytest.raises(SettingsError, match="t: the document"):
        build(name, b"[", "t")


def test_a_stage_that_does_not_exist() -> None:
    with pytest.raises(SettingsError, match="no stage 'magic': one of cache, choice"):
        build("magic", b"{}", "t")
    with pytest.raises(SettingsError, match=r"t: models\.a\.tokenizer: 'b' is no tokenizer"):
        build("tokens", b'{"models": {"a": {"tokenizer": "b"}}}', "t", AROUND)
    with pytest.raises(SettingsError, match=r"t: to: there is no webhook 'other'"):
        build("webhook", b'{"to": "other"}', "t", AROUND)


@pytest.mark.parametrize("name", KINDS)
def test_each_has_a_page_with_an_example_that_holds(name: str) -> None:
    page = (ROOT / "docs" / "stages" / f"{name}.md").read_text(encoding="utf-8")
    assert f"({name}.md)" in (ROOT / "docs" / "stages" / "README.md").read_text(encoding="utf-8")
    example = page.partition("```json\n")[2].partition("```")[0]
    settings.parse(KINDS[name].settings, example.encode(), name)


def test_stages_are_pure() -> None:
    allowed = {"extproc", "orjson", "pydantic", "re2", "rs_bpe", "tokenizers", "jsonschema_rs"}
    for path in [*(ROOT / "extproc" / "stages").glob("*.py"), ROOT / "extproc" / "json_splice.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for top in (name.partition(".")[0] for name in names):
                assert top in allowed or top in sys.stdlib_module_names - {"socket", "asyncio", "os", "time"}, path


def test_needs_add_up() -> None:
    both = Needs(Access.READ, headers=frozenset("a")) | Needs(stream=Access.CHANGE, headers=frozenset("b"), closed=True)
    assert both == Needs(Access.READ, Access.NONE, Access.CHANGE, frozenset("ab"), closed=True)


def test_paths_tell_the_endpoint() -> None:
    assert Endpoint.of("/v1/chat/completions?x=1") is Endpoint.CHAT
    assert Endpoint.of("/v1/messages/count_tokens/") is Endpoint.COUNT_TOKENS
    assert Endpoint.of("/v2/else") is Endpoint.OTHER


def test_an_error_has_the_shape_of_its_api() -> None:
    refusal = Refusal(400, "c", "m", "p")
    assert json.loads(refusal.body()) == {
        "error": {"message": "m", "type": "invalid_request_error", "param": "p", "code": "c"}
    }
    assert refusal.event(Endpoint.MESSAGES).startswith(b'event: error\ndata: {"type":"error"')


TEXT = st.sampled_from(
    ["user", "tool", "text", "a@b.co  x", "4111 1111 1111 1111", "", "é\n\n\n\n", "image_url", "assistant"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "type",
                    "text",
                    "tool_calls",
                    "function",
                    "arguments",
                    "name",
                    "input",
                    "id",
                    "choices",
                    "delta",
                    "index",
                    "message",
                    "logprobs",
                    "output",
                    "finish_reason",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)
BODIES = st.dictionaries(
    st.sampled_from(
        ["model", "messages", "input", "prompt", "system", "tools", "max_tokens", "metadata", "choices", "content"]
    ),
    JSON,
)


@pytest.mark.parametrize("name", KINDS)
@given(endpoint=st.sampled_from(list(Endpoint)), body=BODIES)
def test_any_request_and_answer_is_stood(name: str, endpoint: Endpoint, body: dict[str, Any]) -> None:
    request = asked(body, endpoint)
    assert opened(request) is None
    out = STAGES[name].request(request)
    if out.body is not None:
        assert isinstance(json.loads(out.body), dict)
        assert STAGES[name].needs.request is Access.CHANGE
    json.dumps(dict(out.metadata))
    answer = STAGES[name].answer(request, out.state, request.raw)
    assert answer.body is None or json.loads(answer.body) is not None


@pytest.mark.parametrize("name", KINDS)
@given(
    st.lists(JSON.map(json.dumps) | st.sampled_from(["[DONE]", "{", "\xff", '{"id":1}']), max_size=5),
    CUTS,
    st.booleans(),
)
def test_any_stream_is_stood(name: str, events: list[str], cuts: list[int], ended: bool) -> None:
    data = "".join([f"data: {event}\n\n" for event in events]).encode("latin-1", "replace")
    data = data if ended else data[:-3]
    one, other = (STAGES[name].stream(asked(), None) for _ in range(2))
    if one is not None and other is not None:
        assert fed(one, chunked(data, cuts)) == fed(other, [data])


LINES = st.sampled_from([b"data: a", b"data:b", b"data", b": c", b"event: x", b"id: 1", b"", b"\xff"])
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.tuples(LINES, ENDS), max_size=12), CUTS)
def test_events_are_the_same_bytes_in_any_chunking(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    data = b"".join([line + end for line, end in lines])
    whole, cut = Splitter(), Splitter()
    events = [*whole.feed(data), whole.rest()]
    assert b"".join(events) == data
    parts = [event for chunk in chunked(data, cuts) for event in cut.feed(chunk)]
    assert [*parts, cut.rest()] == events
    for event in events:
        found = data_of(event)
        if found is not None:
            assert data_of(with_data(event, b"new")) == b"new"
            assert data_of(with_data(event, b"two\n lines")) == b"two\n lines"
            assert with_data(event, b"new").count(b"\n") <= event.count(b"\n")
