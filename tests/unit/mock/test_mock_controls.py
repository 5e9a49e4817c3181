"""Every control does what its line in the module's documentation says, by header and by model name."""

import gzip
import json
import time
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest

import sidecars.mock
from sidecars.mock.controls import CONTROLS
from tests.support.mock import ROOT, MockProvider

Ask = Callable[..., httpx.Response]


@pytest.fixture(params=["header", "model"])
def ask(request: pytest.FixtureRequest, http: httpx.Client) -> Ask:
    """Sends a chat request with controls, spelled the parametrized way."""

    def send(controls: dict[str, str], path: str = "chat/completions", **fields: Any) -> httpx.Response:
        body = {"model": "mock-m", "messages": [{"role": "user", "content": "one two three"}], **fields}
        if request.param == "header":
            headers = {f"x-mock-{key}": value for key, value in controls.items()}
            return http.post(f"/v1/{path}", json=body, headers=headers)
        body["model"] += "".join(
            f"+{key}={quote(value) if key != 'body' else value}" for key, value in controls.items()
        )
        return http.post(f"/v1/{path}", json=body)

    return send


def events(answer: httpx.Response) -> list[Any]:
    """The data of a stream's events, without the final [DONE]."""
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n")]
    return [json.loads(line) for line in lines if line and line != "[DONE]"]


def deltas(answer: httpx.Response) -> list[str]:
    choices = [event["choices"][0] for event in events(answer) if event.get("choices")]
    return [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")]


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", None),
        (401, "invalid_request_error", "invalid_api_key"),
        (404, "invalid_request_error", "model_not_found"),
        (429, "requests", "rate_limit_exceeded"),
        (500, "server_error", None),
        (503, "server_error", None),
        (599, "server_error", None),
    ],
)
def test_status_and_retry_after(ask: Ask, status: int, kind: str, code: str | None) -> None:
    answer = ask({"status": str(status), "retry-after": "2"})
    assert answer.status_code == status
    assert answer.headers["retry-after"] == "2"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == (kind, code)


def test_a_success_status_keeps_the_answer(ask: Ask) -> None:
    assert ask({"status": "201"}).json()["object"] == "chat.completion"
    assert ask({"status": "202"}, stream=True).status_code == 202
    empty = ask({"status": "204"})
    assert (empty.status_code, empty.content) == (204, b"")


@pytest.mark.parametrize("named", [True, False])
def test_the_first_attempt_of_a_request_may_fail(http: httpx.Client, named: bool) -> None:
    def ask(request: str) -> int:
        headers = {"x-mock-first-status": "429"} | ({"x-request-id": request} if named else {})
        body = {"model": "m", "messages": [{"role": "user", "content": "x" if named else f"for {request}"}]}
        return http.post("/v1/chat/completions", json=body, headers=headers).status_code

    one, other = f"first-{named}", f"second-{named}"
    assert [ask(one), ask(one), ask(other), ask(one), ask(other)] == [429, 200, 429, 200, 200]


def test_the_client_sees_errors_by_their_type(client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="mock+status=429", messages=[])


def test_delay_comes_before_the_headers(ask: Ask) -> None:
    began = time.perf_counter()
    ask({"delay": "120ms"})
    assert time.perf_counter() - began >= 0.12


def test_chunks_and_chunk_delay(ask: Ask) -> None:
    began = time.perf_counter()
    answer = ask({"chunks": "10", "chunk-delay": "10ms"}, stream=True)
    assert time.perf_counter() - began >= 0.1
    assert "".join(deltas(answer)) == "You said: one two three You said: one two three"
    assert len(deltas(answer)) == 10
    assert deltas(ask({"chunks": "2"}, stream=True)) == ["You said:", " one two three"]
    assert ask({"chunks": "10"}).json()["usage"]["completion_tokens"] == 10


def test_chunks_cut_structured_text_into_characters(ask: Ask) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
    assert deltas(ask({"chunks": "50"}, stream=True, response_format=form)) == ["{", "}"]


@pytest.mark.parametrize("after", [1, 3])
def test_fail_after_closes_the_connection_after_that_many_chunks(ask: Ask, mock: MockProvider, after: int) -> None:
    seen = b""
    before = mock.stats()["cuts"]
    with pytest.raises(httpx.RemoteProtocolError):
        ask({"fail-after": str(after)}, stream=True)
    # The same again, keeping what came through.
    body = {"model": f"mock+fail-after={after}", "stream": True, "messages": [{"role": "user", "content": "a b c d"}]}
    with (
        httpx.stream("POST", f"{mock.base_url}/chat/completions", json=body) as answer,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        for part in answer.iter_bytes():
            seen += part
    assert seen.count(b"data: ") == 1 + after
    assert mock.wait_for(lambda stats: stats["cuts"] == before + 2)


def test_fail_after_cuts_a_plain_answer_and_0_comes_before_the_headers(ask: Ask) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection without sending complete message body"):
        ask({"fail-after": "1"})
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        ask({"fail-after": "0"})


def test_fail_after_the_last_chunk_never_happens(ask: Ask) -> None:
    assert ask({"fail-after": "6"}, stream=True).text.endswith("data: [DONE]\n\n")


def test_error_after_ends_with_an_error_event(ask: Ask, client: openai.OpenAI) -> None:
    answer = ask({"error-after": "2"}, stream=True)
    assert deltas(answer) == ["You", " said:"]
    assert events(answer)[-1]["error"]["type"] == "server_error"
    assert "[DONE]" not in answer.text
    assert deltas(ask({"error-after": "5"}, stream=True)) == ["You", " said:", " one", " two", " three"]
    assert ask({"error-after": "6"}, stream=True).text.endswith("data: [DONE]\n\n")
    assert ask({"error-after": "2"}).status_code == 500
    with pytest.raises(openai.APIError, match="fail midway"):
        list(client.chat.completions.create(model="mock+error-after=1", messages=[{"role": "user", "content": "x"}],
            stream=True))  # fmt: skip
    with pytest.raises(openai.APIError, match="fail midway"):
        list(client.responses.create(model="mock+error-after=1", input="x", stream=True))


def test_hang_never_answers(mock: MockProvider) -> None:
    body = {"model": "mock-h", "messages": [{"role": "user", "content": "x"}]}
    before = mock.stats()["aborts"]
    with httpx.Client(timeout=httpx.Timeout(5, read=0.2)) as http:
        url = f"{mock.base_url}/chat/completions"
        with pytest.raises(httpx.ReadTimeout):
            http.post(url, json=body, headers={"x-mock-hang": "headers"})
        for stream in (False, True):
            headers = {"x-mock-hang": "body"}
            with http.stream("POST", url, json=body | {"stream": stream}, headers=headers) as answer:
                assert answer.status_code == 200
                with pytest.raises(httpx.ReadTimeout):
                    answer.read()
    stats = mock.wait_for(lambda stats: stats["aborts"] == before + 3 and stats["open_requests"] == 0)
    rows = {row["status"]: row for row in stats["by"] if row["model"] == "mock-h"}
    assert (rows[0]["aborts"], rows[200]["aborts"]) == (1, 2)


def test_usage_controls(ask: Ask) -> None:
    told = ask({"usage": "19,10", "cached-tokens": "8", "reasoning-tokens": "4"}).json()["usage"]
    assert (told["prompt_tokens"], told["completion_tokens"], told["total_tokens"]) == (19, 10, 29)
    assert told["prompt_tokens_details"]["cached_tokens"] == 8
    assert told["completion_tokens_details"]["reasoning_tokens"] == 4
    counted = ask({"reasoning-tokens": "4"}).json()["usage"]
    assert counted["completion_tokens"] == 9
    wanted = {"stream": True, "stream_options": {"include_usage": True}}
    assert events(ask({"usage": "19,10"}, **wanted))[-1]["usage"]["total_tokens"] == 29
    assert not [event for event in events(ask({"no-usage": "1"}, **wanted)) if "usage" in event]
    assert "usage" not in ask({"no-usage": "1"}).json()
    assert "usage" not in ask({"no-usage": "1"}, "embeddings", input="x").json()
    assert ask({"no-usage": "1"}, "responses", input="x").json()["usage"] is None
    assert ask({"usage": "7,0"}, "embeddings", input="x").json()["usage"]["prompt_tokens"] == 7


def test_size(ask: Ask) -> None:
    plain = ask({"size": "64KiB"}).json()["choices"][0]["message"]["content"]
    assert len(plain) == 65536
    assert "".join(deltas(ask({"size": "64KiB", "chunks": "7"}, stream=True))) == plain
    assert len(ask({"size": "1MiB"}, "audio/speech", input="x", voice="v").content) == 1 << 20
    assert ask({"size": "0"}).json()["choices"][0]["message"]["content"] == ""
    assert ask({"size": "0"}, stream=True).text.endswith("data: [DONE]\n\n")


def test_body_and_content_type(ask: Ask) -> None:
    page = "<html>1 + 1 = 2 %</html>"
    answer = ask({"body": quote(page, safe=""), "content-type": "text/html", "status": "502"})
    assert (answer.status_code, answer.text) == (502, page)
    assert answer.headers["content-type"] == "text/html"
    assert ask({"body": "%7b"}).headers["content-type"] == "application/json"
    assert ask({"content-type": "application/problem+json"}).headers["content-type"] == "application/problem+json"


def test_gzip(ask: Ask, mock: MockProvider) -> None:
    plain, squeezed = ask({}), ask({"gzip": "1"})
    assert squeezed.headers["content-encoding"] == "gzip"
    assert squeezed.json()["choices"] == plain.json()["choices"]
    assert deltas(ask({"gzip": "1"}, stream=True)) == deltas(ask({}, stream=True))
    body = {"model": "mock+gzip=1", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    with httpx.stream("POST", f"{mock.base_url}/chat/completions", json=body) as answer:
        raw = b"".join(answer.iter_raw())
    assert gzip.decompress(raw).endswith(b"data: [DONE]\n\n")
    # Each chunk can be read as it comes: what was flushed first decodes without the rest.
    assert b"assistant" in zlib.decompressobj(wbits=31).decompress(raw[: len(raw) * 3 // 4])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", "99"),
        ("status", "abc"),
        ("first-status", "42"),
        ("retry-after", ""),
        ("delay", "150"),
        ("chunk-delay", "-1s"),
        ("chunks", "0"),
        ("fail-after", "x"),
        ("error-after", "1.5"),
        ("hang", "forever"),
        ("usage", "19"),
        ("cached-tokens", "many"),
        ("reasoning-tokens", ""),
        ("no-usage", "yes"),
        ("size", "1GiB"),
        ("size", "17MiB"),
        ("gzip", "br"),
        ("colour", "red"),
    ],
)
def test_a_bad_control_is_a_400_that_names_it(ask: Ask, key: str, value: str) -> None:
    answer = ask({key: value})
    assert answer.status_code == 400
    assert key in answer.json()["error"]["message"]


def test_a_directive_without_a_value_is_a_400(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json={"model": "mock+status", "messages": []})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


def test_headers_win_over_the_model_name(http: httpx.Client) -> None:
    body = {"model": "mock+status=503+retry-after=9", "messages": []}
    answer = http.post("/v1/chat/completions", json=body, headers={"x-mock-status": "429"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "9")


def test_only_names_that_begin_with_mock_have_directives(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt+status=503", messages=[{"role": "user", "content": "x"}])
    assert answer.model == "gpt+status=503"


def test_controls_work_without_a_readable_body(http: httpx.Client) -> None:
    assert http.post("/v1/chat/completions", content=b"{", headers={"x-mock-status": "503"}).status_code == 503
    assert http.get("/v1/models", headers={"x-mock-status": "500"}).status_code == 500


def test_every_control_is_documented() -> None:
    text = sidecars.mock.__doc__ or ""
    page = (ROOT / "docs/mock.md").read_text()
    for key in CONTROLS:
        assert f"\n{key} " in text, key
        assert f"| `{key}` |" in page, key
