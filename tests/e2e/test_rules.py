"""Rules as users meet them: OpenAI's own client, a real Envoy, the workers, and a provider that misbehaves."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider

_POLICY = """
providers:
  p: {{kind: openai, base_url: "{url}"}}
  other: {{kind: openai, base_url: "{url}"}}
models:
  m: p
  plain: p
  "free-*": p
  renamed: {{provider: p, model: upstream}}
  spread: {{try: [{{provider: p, model: mock+status=503}}, {{provider: other, model: second}}]}}
keys:
  alice: {{secret: {{env: ALICE}}}}
  bob: {{secret: {{env: BOB}}, team: search}}
teams: {{search: {{}}}}
rules:
  - name: tidy
    when: {{model: [m, renamed, spread]}}
    do:
      - set: {{temperature: 0}}
      - remove_from_answer: [system_fingerprint]
  - name: private
    when: {{model: [m, renamed, spread, free-private]}}
    do: [{{redact: [email]}}, {{block: {{words: [xyzzy]}}}}]
  - name: labels
    when: {{team: search, path: /v1/chat/completions}}
    do: [{{headers: {{x-team: "{{team}}"}}}}, {{answer_headers: {{x-asked: "{{model}}"}}}}]
  - name: beta
    when: {{header: {{x-app: "beta-*"}}, modality: image}}
    do: [{{set: {{user: "{{header:x-app}}"}}}}]
  - name: by-content
    when: {{model: free-choice}}
    do:
      - choose:
          rules:
            - {{when: {{has: [image]}}, model: renamed}}
            - {{when: {{tokens: {{least: 500}}}}, model: spread}}
      - headers: {{x-chosen: "{{model}}"}}
      - answer_headers: {{x-asked-for: "{{model}}"}}
      - redact: [phone]
  - name: tidy-beta
    when: {{model: free-tidy, header: {{x-app: "beta-*"}}}}
    do: [{{remove_from_answer: [system_fingerprint]}}]
  - name: private-answers
    when: {{model: free-tidy, team: search}}
    do: [{{redact: {{find: [email], on: answer}}}}]
  - name: masked
    when: {{model: free-masked}}
    do: [{{mask: [email]}}]
"""


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProvider]:
    with MockProvider() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(mock: MockProvider) -> Iterator[Gateway]:
    env = {"ALICE": "key-of-alice", "BOB": "key-of-bob"}
    with Gateway(_POLICY.format(url=mock.base_url), env=env, key="key-of-alice") as running:
        yield running


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with gateway.client() as made:
        yield made


@pytest.fixture(autouse=True)
def _forget(mock: MockProvider) -> None:
    mock.forget()


def _said(mock: MockProvider) -> dict[str, Any]:
    found: dict[str, Any] = mock.requests()[-1].json()
    return found


def _message(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def _post(gateway: Gateway, body: object, *, key: str = "", **headers: str) -> httpx.Response:
    sent = {"authorization": f"Bearer {key or gateway.key}"} | {k.replace("_", "-"): v for k, v in headers.items()}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return gateway.http.post(
        "/v1/chat/completions", content=content, headers={"content-type": "application/json", **sent}
    )


@pytest.mark.parametrize("model", ["m", "renamed", "spread"])
def test_a_request_and_its_answer_are_changed(client: openai.OpenAI, mock: MockProvider, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=_message("I am ada@example.com"))
    assert answer.choices[0].message.content == "You said: I am [EMAIL]"
    assert answer.system_fingerprint is None
    assert answer.usage is not None
    sent = _said(mock)
    assert (sent["temperature"], sent["messages"]) == (0, _message("I am [EMAIL]"))
    assert sent["model"] == {"m": "m", "renamed": "upstream", "spread": "second"}[model]


@pytest.mark.parametrize("pieces", [1, 3, 25])
def test_what_is_split_over_chunks_is_still_caught(client: openai.OpenAI, pieces: int) -> None:
    stream = client.chat.completions.create(
        model="free-private",
        messages=_message("echo"),
        stream=True,
        extra_headers={
            "x-mock-body": _stream_of("write to ada@example.com today", pieces),
            "x-mock-content-type": "text/event-stream",
        },
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == "write to [EMAIL] today"


def _stream_of(text: str, pieces: int) -> str:
    """A streamed answer, percent-encoded, with the text cut into so many deltas."""
    size = -(-len(text) // pieces)
    deltas = [text[at : at + size] for at in range(0, len(text), size)]
    events = [
        {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "delta": {"content": delta}, "finish_reason": None}],
        }
        for delta in deltas
    ]
    return quote("".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n")


def test_a_stream_is_changed_event_by_event(client: openai.OpenAI, mock: MockProvider) -> None:
    stream = client.chat.completions.create(model="m", messages=_message("hi bob@example.com"), stream=True)
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "You said: hi [EMAIL]"
    assert all(c.system_fingerprint is None for c in chunks)
    assert _said(mock)["temperature"] == 0


_IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]


@pytest.mark.parametrize(
    ("content", "served"), [("hi +49 30 1234567", "free-choice"), (_IMAGE, "upstream"), ("many words " * 400, "second")]
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_request_holds_chooses_its_model(
    gateway: Gateway, mock: MockProvider, content: object, served: str, stream: bool
) -> None:
    body = {"model": "free-choice", "stream": stream, "messages": [{"role": "user", "content": content}]}
    answer = _post(gateway, body)
    assert answer.status_code == 200
    assert _said(mock)["model"] == served
    assert dict(mock.requests()[-1].headers)["x-chosen"]
    assert answer.headers["x-asked-for"]
    assert "1234567" not in answer.text


def test_what_rules_noted_of_a_request_is_logged(gateway: Gateway) -> None:
    body = {"model": "free-choice", "messages": [{"role": "user", "content": _IMAGE}]}
    asked = _post(gateway, body).headers["x-request-id"]
    _post(gateway, {"model": "plain", "messages": _message("nothing to note")})

    def line() -> dict[str, Any] | None:
        *whole, _ = (gateway.folder / "state/rules.log").read_text().split("\n")
        lines = [json.loads(text) for text in whole]
        return next((each for each in lines if each["id"] == asked), None)

    found = eventually(line, "the line of the request")
    assert (found["status"], found["path"]) == (200, "/v1/chat/completions")
    noted = json.loads(found["request"])
    assert noted == {"by-content": {"choice": {"model": "renamed", "rule": "0", "reason": "has image"}}}


def test_a_mask_is_lifted_for_the_client(client: openai.OpenAI, mock: MockProvider) -> None:
    answer = client.chat.completions.create(model="free-masked", messages=_message("I am ada@example.com"))
    assert answer.choices[0].message.content == "You said: I am ada@example.com"
    assert _said(mock)["messages"] == _message("I am [EMAIL_1]")
    stream = client.chat.completions.create(model="free-masked", messages=_message("I am ada@example.com"), stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == "You said: I am ada@example.com"


@pytest.mark.parametrize("stream", [False, True])
def test_rules_for_answers_are_for_whom_they_say(gateway: Gateway, stream: bool) -> None:
    body = {"model": "free-tidy", "stream": stream, "messages": _message("I am ada@example.com")}
    others = _post(gateway, body).text
    assert "[EMAIL]" not in others and "fp_mock" in others
    beta = _post(gateway, body, x_app="beta-1").text
    assert "fp_mock" not in beta
    team = _post(gateway, body, key="key-of-bob").text
    assert "[EMAIL]" in team and "fp_mock" in team


def test_a_refusal_is_openais_error_and_the_provider_sees_nothing(client: openai.OpenAI, mock: MockProvider) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="m", messages=_message("the word is xyzzy"), extra_headers={"x-request-id": "mine"}
        )
    assert (caught.value.code, caught.value.param) == ("content_policy_violation", "messages[0].content")
    assert caught.value.response.headers["x-request-id"] == "mine"
    assert mock.requests() == []


def test_an_answer_can_be_refused(gateway: Gateway) -> None:
    answer = _post(
        gateway,
        {"model": "m", "messages": _message("hi")},
        x_mock_body="%7B%22choices%22:%5B%7B%22message%22:%7B%22content%22:%22xyzzy%22%7D%7D%5D%7D",
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "content_policy_violation"
    assert "xyzzy" not in answer.text


def test_a_streamed_answer_that_is_refused_ends_with_an_error(gateway: Gateway) -> None:
    body = {"model": "m", "stream": True, "messages": _message("hi")}
    answer = _post(gateway, body, x_mock_body=_stream_of("so xyzzy it is", 5), x_mock_content_type="text/event-stream")
    assert answer.status_code == 200
    assert "xyzzy" not in answer.text
    last = [line for line in answer.text.splitlines() if line.startswith("data: ")][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "content_policy_violation"


def test_headers_are_set_towards_both_sides(gateway: Gateway, mock: MockProvider) -> None:
    answer = _post(gateway, {"model": "plain", "messages": _message("hi")}, key="key-of-bob", x_team="forged")
    assert answer.headers["x-asked"] == "plain"
    assert dict(mock.requests()[-1].headers)["x-team"] == "search"


def test_others_do_not_meet_the_rule(gateway: Gateway, mock: MockProvider) -> None:
    answer = _post(gateway, {"model": "plain", "messages": _message("hi")})
    assert "x-asked" not in answer.headers
    assert "x-team" not in dict(mock.requests()[-1].headers)
    assert "x-headgate-stream" not in dict(mock.requests()[-1].headers)


@pytest.mark.parametrize(
    ("app", "image", "user"), [("beta-1", True, "beta-1"), ("beta-1", False, None), ("prod", True, None)]
)
def test_conditions_on_headers_and_modality(
    gateway: Gateway, mock: MockProvider, app: str, image: bool, user: str | None
) -> None:
    part = (
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        if image
        else {"type": "text", "text": "hi"}
    )
    _post(gateway, {"model": "plain", "messages": [{"role": "user", "content": [part]}]}, x_app=app)
    assert _said(mock).get("user") == user


def test_usage_is_still_counted_and_not_shown(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="m", messages=_message("hi"), stream=True)
    assert all(chunk.usage is None for chunk in stream)


def test_what_rules_did_is_counted(gateway: Gateway) -> None:
    def counted() -> dict[str, Any]:
        found: dict[str, Any] = gateway.admin.get("/rules").raise_for_status().json()
        return found if found["workers"] == 2 else {}  # without one that was too slow to answer

    before = eventually(counted, "both workers answer")
    _post(gateway, {"model": "m", "messages": _message("ada@example.com and bob@example.com")}, x_mock_size="10")
    _post(gateway, {"model": "m", "messages": _message("xyzzy")})
    after = eventually(counted, "both workers answer")
    assert after["requests"] == before["requests"] + 2
    assert after["found"]["private.safety.email"] >= before["found"].get("private.safety.email", 0) + 2
    assert after["refused"]["private"] == before["refused"].get("private", 0) + 1


def test_a_providers_error_keeps_its_words(gateway: Gateway) -> None:
    answer = _post(gateway, {"model": "m", "messages": _message("hi")}, x_mock_status="418")
    assert answer.status_code == 418
    assert "error" in answer.json()


_DEEP = b"[" * 5000 + b"]" * 5000


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"model":"m","messages":[{"role":"user","content":"\xff\xfe"}]}', "invalid_json"),
        (b'{"model":"m","messages":%b}' % _DEEP, "invalid_json"),
        (b'{"model":"m","messages":[}', "invalid_json"),
        (b'{"model":"m","messages":[],"Messages":[{"role":"user","content":"xyzzy"}]}', "invalid_json"),
    ],
)
def test_a_body_that_is_no_json_is_refused(gateway: Gateway, mock: MockProvider, body: bytes, code: str) -> None:
    answer = _post(gateway, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert mock.requests() == []


def test_a_header_that_is_no_text_rids_nobody_of_rules(gateway: Gateway, mock: MockProvider) -> None:
    answer = gateway.http.post(
        "/v1/chat/completions",
        json={"model": "plain", "messages": _message("hi")},
        headers=[(b"authorization", b"Bearer " + gateway.key.encode()), (b"x-app", b"beta-\xff")],
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_header")
    assert mock.requests() == []


def test_a_form_cannot_be_looked_at(gateway: Gateway, mock: MockProvider) -> None:
    form = {"file": ("a.wav", b"RIFF", "audio/wav")}
    headers = {"authorization": f"Bearer {gateway.key}"}
    refused = gateway.http.post("/v1/audio/transcriptions", data={"model": "m"}, files=form, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "rule_not_applicable")
    passed = gateway.http.post("/v1/audio/transcriptions", data={"model": "plain"}, files=form, headers=headers)
    assert passed.status_code == 200


def test_a_page_of_html_is_a_text(gateway: Gateway) -> None:
    body = {"model": "m", "messages": _message("hi")}
    page = {"x_mock_body": "%3Chtml%3Ewrite to ada@example.com%3C/html%3E", "x_mock_content_type": "text/html"}
    assert _post(gateway, body, **page).text == "<html>write to [EMAIL]</html>"
    assert _post(gateway, body | {"stream": True}, **page).text == "<html>write to [EMAIL]</html>"


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_rule_cannot_read_is_not_shown(gateway: Gateway, stream: bool) -> None:
    body = {"model": "m", "stream": stream, "messages": _message("I am ada@example.com")}
    answer = _post(gateway, body, x_mock_gzip="1")
    assert "upstream_error" in answer.text
    assert answer.status_code == (200 if stream else 502)
    passed = _post(gateway, body | {"model": "plain"}, x_mock_gzip="1")
    assert passed.status_code == 200
    assert "You" in passed.text


@pytest.mark.parametrize("stream", [False, True])
def test_long_answers_go_through(gateway: Gateway, stream: bool) -> None:
    body = {"model": "m", "stream": stream, "messages": _message("I am ada@example.com")}
    answer = _post(gateway, body, x_mock_size="10MiB", x_mock_chunks="1")
    assert answer.status_code == 200
    assert len(answer.content) > 10 << 20
    assert "ada@example.com" not in answer.text


def test_a_long_request_goes_through(gateway: Gateway, mock: MockProvider) -> None:
    text = "write to ada@example.com now. " * 100_000
    answer = _post(gateway, {"model": "m", "messages": _message(text)}, x_mock_size="1KiB")
    assert answer.status_code == 200
    assert _said(mock)["messages"] == _message(text.replace("ada@example.com", "[EMAIL]"))


def test_a_stream_that_breaks_off_shows_nothing_it_held(gateway: Gateway) -> None:
    body = {"model": "m", "stream": True, "messages": _message("ada@example.com and more and more")}
    try:
        with gateway.http.stream(
            "POST",
            "/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {gateway.key}", "x-mock-fail-after": "2"},
        ) as answer:
            text = "".join(answer.iter_text())
    except httpx.RemoteProtocolError:
        return
    assert "ada@example.com" not in text
