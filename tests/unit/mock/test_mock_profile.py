"""Settings and fixtures are followed: an edit is live, a mistake changes nothing and is told."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sidecars.mock.settings import SettingsError, read
from tests.support.mock import MockProvider


def said(mock: MockProvider, text: str = "hi", **more: Any) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
    return httpx.post(f"{mock.base_url}/chat/completions", json=body, timeout=60)


def text_of(answer: httpx.Response) -> Any:
    return answer.json()["choices"][0]["message"]["content"]


def in_force(mock: MockProvider) -> Any:
    return httpx.get(f"http://{mock.address}/mock/settings", timeout=60).json()


def until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def write(path: Path, *fixtures: dict[str, Any]) -> None:
    path.write_text(json.dumps({"fixtures": fixtures}))


def test_fixtures_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "a.json", {"match": {"user": "hi"}, "answer": {"text": "first"}})
    with MockProvider("--fixtures", str(tmp_path)) as mock:
        assert text_of(said(mock)) == "first"
        assert text_of(said(mock, "other")) == "You said: other"
        write(tmp_path / "a.json", {"match": {"user": "hi"}, "answer": {"text": "second"}})
        until(lambda: bool(text_of(said(mock)) == "second"))
        (tmp_path / "b.yaml").write_text("fixtures: [{answer: {txt: x}}]")
        until(lambda: "b.yaml:1: fixtures.0.answer.txt" in (in_force(mock)["problem"] or ""))
        assert text_of(said(mock)) == "second"
        (tmp_path / "b.yaml").unlink()
        until(lambda: in_force(mock)["problem"] is None)


def test_settings_are_followed(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"version": 1, "tag": "a", "scripts": [["*", "ok, 503"]]}))
    with MockProvider("--settings", str(file)) as mock:
        assert in_force(mock) == {"tag": "a", "problem": None}
        assert [said(mock).status_code for _ in range(3)] == [200, 503, 200]
        file.write_text(json.dumps({"version": 1, "tag": "b", "scripts": [["*", "ok, 503"]]}))
        until(lambda: in_force(mock)["tag"] == "b")
        assert said(mock).status_code == 503  # the sequence goes on: only the tag is another
        file.write_text("{")
        until(lambda: in_force(mock)["problem"] is not None)
        assert in_force(mock)["tag"] == "b"


def test_wrong_fixtures_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("fixtures: [{answer: {txt: x}}]")
    with pytest.raises(AssertionError, match=r"a\.yaml:1: fixtures\.0\.answer\.txt"):
        MockProvider("--fixtures", str(tmp_path)).__enter__()
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"version": 1, "tag": "a", "fixtures": str(tmp_path / "a.yaml")}))
    with MockProvider("--settings", str(file)) as mock:
        answer = said(mock)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "invalid_fixtures")


def test_an_answer_of_every_form(tmp_path: Path) -> None:
    calls = [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": "{broken"}]
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "cached_tokens": 2}
    events = [{"data": {"choices": [{"index": 0, "delta": {"content": "raw"}}]}, "after": "60ms"}, {"data": "[DONE]"}]
    fixtures: dict[str, dict[str, Any]] = {
        "calls": {"tool_calls": calls, "usage": usage},
        "chunks": {"chunks": [{"text": "a ", "after": "80ms"}, {"text": "b", "after": "80ms"}]},
        "events": {"chunks": events},
        "raw": {"body": "<html>", "content_type": "text/html", "status": 502, "headers": {"x-mine": "yes"}},
        "quiet": {"text": "x", "usage": False, "finish_reason": "content_filter"},
        "reset": {"fault": "reset"},
    }
    write(tmp_path / "a.json", *({"match": {"user": name}, "answer": of} for name, of in fixtures.items()))
    with MockProvider("--fixtures", str(tmp_path), "--strict", "404") as mock:
        client = openai.OpenAI(base_url=mock.base_url, api_key="x", max_retries=0)

        def ask(name: str, **more: Any) -> Any:
            return client.chat.completions.create(model="m", messages=[{"role": "user", "content": name}], **more)

        with client:
            found = ask("calls")
            called = [(call.function.name, call.function.arguments) for call in found.choices[0].message.tool_calls]
            assert called == [("f", '{"a":1}'), ("g", "{broken")]
            assert found.usage.prompt_tokens_details.cached_tokens == 2
            streamed = [c.choices[0].delta for c in ask("calls", stream=True)]
            parts = [call for delta in streamed for call in delta.tool_calls or []]
            assert [call.function.name for call in parts if call.function.name] == ["f", "g"]
            assert {call.index for call in parts} == {0, 1}
            began = time.perf_counter()
            pieces = [c.choices[0].delta.content for c in ask("chunks", stream=True) if c.choices[0].delta.content]
            assert (pieces, time.perf_counter() - began > 0.15) == (["a ", "b"], True)
            assert ask("chunks").choices[0].message.content == "a b"
            assert [c.choices[0].delta.content for c in ask("events", stream=True)] == ["raw"]
            assert (ask("quiet").usage, ask("quiet").choices[0].finish_reason) == (None, "content_filter")
            with pytest.raises(openai.APIConnectionError):
                ask("reset")
            with pytest.raises(openai.NotFoundError, match="No fixture matches"):
                ask("none of these")
        raw = said(mock, "raw")
        assert (raw.status_code, raw.text, raw.headers["x-mine"]) == (502, "<html>", "yes")
        assert raw.headers["content-type"] == "text/html"
        embedding = httpx.post(f"{mock.base_url}/embeddings", json={"model": "m", "input": "quiet"}, timeout=60)
        assert (embedding.status_code, "has no place for a text" in embedding.text) == (500, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 2}',
        '{"version": 1, "seed": -1}',
        '{"version": 1, "delay": "x"}',
        '{"version": 1, "x": 1}',
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(SettingsError, match=r"s\.json"):
        read(tmp_path / "s.json")
