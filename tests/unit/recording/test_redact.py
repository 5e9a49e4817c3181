"""No secret of a request is in what is recorded of it, wherever it turns up again."""

import json
from base64 import b64encode
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sidecars.recording.redact import (
    MASK,
    answer_headers,
    credentials,
    request_headers,
    scrub,
    scrub_events,
    target,
)

SECRETS = st.text('abcdefghijklmnopqrstuvwxyzABCDEFGH0123456789-_./+="\\é', min_size=8, max_size=40).filter(
    lambda text: text.strip() == text and len(set(text)) > 4
)
CARRIERS = st.sampled_from(
    ["authorization", "x-api-key", "api-key", "x-goog-api-key", "proxy-authorization", "cookie", "x-amz-security-token"]
)


def carried(name: str, secret: str) -> str:
    return {"authorization": f"Bearer {secret}", "cookie": f"a=b; session={secret}"}.get(name, secret)


@given(name=CARRIERS, secret=SECRETS, before=st.text(max_size=20), after=st.text(max_size=20))
def test_a_credential_is_found_in_every_form(name: str, secret: str, before: str, after: str) -> None:
    assume(not set(";,") & set(secret) and secret not in MASK)
    known = credentials([(name, carried(name, secret))], "")
    texts = [
        f"{before} {secret} {after}",
        json.dumps({"error": f"{before} {secret} {after}"}),
        json.dumps({"error": f"{secret}"}, ensure_ascii=False),
        f"https://host/?q={quote(secret, safe='')}",
    ]
    for text in texts:
        clean = scrub(text, known)
        assert secret not in clean
        assert json.dumps(secret)[1:-1] not in clean
        assert quote(secret, safe="") not in clean


@given(secret=SECRETS, cuts=st.lists(st.integers(0, 60), max_size=8), field=st.sampled_from(["content", "arguments"]))
def test_a_credential_is_found_when_it_is_spread_over_events(secret: str, cuts: list[int], field: str) -> None:
    said = f"You\u2028said: {secret} ok"
    edges = sorted({0, len(said), *(cut for cut in cuts if cut < len(said))})
    pieces = [said[one:other] for one, other in pairwise(edges)]
    chunks = [{"choices": [{"delta": {field: piece}}]} for piece in pieces]
    events = [f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks]
    clean = scrub_events([*events, "data: [DONE]\n\n"], credentials([("x-api-key", secret)], ""))
    assert len(clean) == len(events) + 1
    assert clean[-1] == "data: [DONE]\n\n"
    heard = "".join(json.loads(event[6:])["choices"][0]["delta"][field] for event in clean[:-1])
    assert secret not in heard
    assert MASK in heard


@given(st.lists(st.text(max_size=8), max_size=6))
def test_events_without_secrets_stay_as_they_are(pieces: list[str]) -> None:
    events = [f"event: x\ndata: {json.dumps({'delta': piece})}\n\n" for piece in pieces]
    assert scrub_events(events, frozenset({"canary-0123456789"})) == events


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop1234", "sk-ant-api03-abcdefghijklmnop", "gsk_abcdefghijklmnop12345",
        "hf_abcdefghijklmnopqrst", "AIzaSyA1234567890abcdefghijk", "AKIAIOSFODNN7EXAMPLE", "ghp_abcdefghijklmnopqrstuv",
        "xai-abcdefghijklmnop", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "xoxb-123456789012-abcdef",
    ],
)  # fmt: skip
def test_what_looks_like_a_credential_goes_wherever_it_came_from(secret: str) -> None:
    assert secret not in scrub(f"Incorrect API key provided: {secret}.", frozenset())
    assert secret not in scrub(f"Authorization: Bearer {secret}", frozenset())


@pytest.mark.parametrize(
    "text",
    [
        '{"api_key": "hunter2"}', '{"password":"hunter2"}', '{"client_secret" : "hunter2"}',
        "{'access_token': 'hunter2'}",
        '{"arguments": "{\\"api-key\\": \\"hunter2\\"}"}', '{"x-api-key": "hunter2"}', "Bearer hunter2hunter2",
    ],
)  # fmt: skip
def test_fields_named_for_secrets_lose_their_value(text: str) -> None:
    assert "hunter2" not in scrub(text, frozenset())
    assert MASK in scrub(text, frozenset())


@pytest.mark.parametrize(
    "text",
    [
        '{"max_tokens": 5, "logprobs": {"content": [{"token": "Hello", "top_logprobs": []}]}}',
        '{"usage": {"prompt_tokens": 3}, "finish_reason": "stop", "key": "value"}',
        "a task-oriented risk-averse sk-ill, bearer of news",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert scrub(text, frozenset()) == text


@given(st.binary(min_size=600, max_size=6000))
def test_base64_stays(data: bytes) -> None:
    text = json.dumps({"embedding": b64encode(data).decode()})
    assert scrub(text, frozenset()) == text


def test_a_prefix_of_a_key_within_base64_is_chance() -> None:
    text = '{"embedding": "AAAA/hfAbcdefghijklmnopqrstuvwxyz012345+AIzaAbcdefghijklmnopqrstuvw=="}'
    assert scrub(text, frozenset()) == text


def test_private_keys_go() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----"
    assert scrub(f"before {key} after", frozenset()) == f"before {MASK} after"


@given(st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=20))
def test_headers_are_kept_by_name_only(name: str) -> None:
    kept = {
        "accept",
        "content-type",
        "user-agent",
        "anthropic-version",
        "anthropic-beta",
        "openai-beta",
        "x-request-id",
    }
    assert set(request_headers([(name, "v"), ("Content-Type", "a/b")])) <= kept
    assert not {"set-cookie", "authorization", "x-api-key"} & set(answer_headers([(name, "v"), ("Set-Cookie", "s")]))


def test_unknown_parameters_are_masked() -> None:
    assert target("/v1/x", "api-version=2024&key=canary&limit=3") == f"/v1/x?api-version=2024&key={MASK}&limit=3"
    assert "canary-12" in credentials([], "key=canary-12&limit=3456789")
    assert "3456789" not in credentials([], "limit=3456789")


def test_basic_credentials_are_known_by_their_parts() -> None:
    known = credentials([("authorization", f"Basic {b64encode(b'someone:opensesame').decode()}")], "")
    assert "opensesame" not in scrub("your password opensesame is wrong", known)
