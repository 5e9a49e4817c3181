"""The filters around the service that translates: headers travel in front of bodies, and nothing else passes."""

import pytest

from tests.unit.native.module import _HOLD, _PROCEED, _REQUEST, _RESPONSE, Filter, _give, _host, _put

INNER = Filter("translated")
OUTER = Filter("attempt", "claude~translated\n/v1\n\n1000000")
DEPLOYMENTS = Filter("attempt", "azure~2\n/openai\n2024-10-21")
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("chunks", [[b"\x1e:path:/v2/chat\n\n{}"], [b"\x1e:pa", b"th:/v2/chat\n", b"\n{}"]])
def test_a_request_gets_the_headers_in_front_of_its_body(chunks: list[bytes]) -> None:
    made = INNER.request(chunks, {":path": "/v1/chat/completions", "content-length": "999"})
    assert (made.body, made.headers) == (b"{}", {":path": "/v2/chat", "content-length": "2"})


@pytest.mark.parametrize("body", [b'{"model":"m"}', b"\n\n{}", b"\x1e:path:/x\n", b"x"])
def test_a_request_that_is_not_translated_goes_nowhere(body: bytes) -> None:
    assert INNER.request([body], {":path": "/v1/x"}).body == b""
    assert INNER.ended() == "headgate_not_translated"


def test_the_service_is_told_of_an_answer_in_front_of_its_first_part() -> None:
    headers = {":status": "429", "content-type": "text/html", "retry-after": "7", "x-other": "1"}
    sent, _ = INNER.attempted([b"one", b"two"], headers)
    assert sent == b"\x1e:status:429\ncontent-type:text/html\nretry-after:7\n\nonetwo"


def test_an_answer_gets_the_headers_in_front_of_its_first_part() -> None:
    head = b"\x1e:status:503\ncontent-type:text/event-stream\ncontent-length:\nx-new:a: b\n\n"
    sent, headers = OUTER.attempted([b"", head + b"one", b"\x1etwo\n\n"], {":status": "200", "content-length": "9"})
    assert sent == b"one\x1etwo\n\n"
    assert headers == {":status": "503", "content-type": "text/event-stream", "x-new": "a: b"}


def test_what_comes_after_the_providers_end_goes_on_with_the_end() -> None:
    with OUTER._stream({":path": "/v1/chat/completions", "x-headgate-done": ""}, {}) as stream:
        _put(_RESPONSE, {":status": "200"})
        stream.on("response_headers", False)
        _give(2, b"\x1e:status:200\n\none")
        assert stream.on("response_body", False) == _PROCEED
        _host().host_drop(2)
        _put(_REQUEST, {"x-headgate-done": "1"})  # as the inner filter notes it
        _give(2, b"two")
        assert stream.on("response_body", False) == _HOLD
        assert stream.on("response_body", True) == _PROCEED


@pytest.mark.parametrize("body", [b'{"type":"message"}', b"event: x\ndata: {}\n\n"])
def test_an_answer_that_is_not_translated_ends_the_stream(body: bytes) -> None:
    with pytest.raises(AssertionError, match="the stream ended"):
        OUTER.attempted([body], {":status": "200"})
    assert OUTER.ended() == "headgate_not_translated"


def test_an_answer_without_a_body_keeps_its_headers() -> None:
    assert OUTER.attempted([], {":status": "500"}) == (b"", {":status": "500"})


@pytest.mark.parametrize(("upstream", "name"), [("", "m/1"), ("gpt 4", "gpt%204"), ("\u00e9", "%C3%A9")])
def test_a_deployment_is_in_the_path(upstream: str, name: str) -> None:
    route = {"attempt/azure~2": upstream.encode().decode("latin-1")}
    made = DEPLOYMENTS.request(b'{"model":"m/1"}', {**JSON, ":path": "/v1/chat/completions?x=1"}, route)
    path = f"/openai/deployments/{name.replace('/', '%2F')}/chat/completions?api-version=2024-10-21"
    assert made.headers[":path"] == path


def test_a_configuration_of_another_form_is_rejected() -> None:
    for text in ("claude\n/v1\n\nmany", "claude"):
        with pytest.raises(ValueError, match="rejected"):
            Filter("attempt", text)
    with pytest.raises(ValueError, match="rejected"):
        Filter("translated", "what")
