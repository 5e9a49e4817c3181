"""Where recorded requests are sent."""

import asyncio
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from controlplane.replay.send import Pace, send
from sidecars.recording.exchange import Answer, Body, Exchange, Request, Times

_ASKED: list[str] = []


class _Gateway(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        _ASKED.append(self.path)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    _ASKED.clear()
    with HTTPServer(("127.0.0.1", 0), _Gateway) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/models/a%2Fb?x=%20", "/v1/models/a%2Fb?x=%20"),
        ("/v1/models?key=[redacted]", "/v1/models?key=[redacted]"),
        ("/http://elsewhere.invalid/v1", "/http://elsewhere.invalid/v1"),
        ("/a b", "/a%20b"),
    ],
)
def test_a_request_goes_to_the_gateway_with_its_path(url: str, path: str, sent: str) -> None:
    exchange = Exchange(
        id="i", at="2026-01-02T03:04:05Z", model="m", provider="p",
        request=Request(method="GET", path=path, headers={}, body=Body(text="")),
        answer=Answer(status=200, headers={}), ms=Times(headers=1, first=1, total=1),
    )  # fmt: skip
    (outcome,) = asyncio.run(send([exchange], url, "key", Pace(1, None)))
    assert (outcome.status, _ASKED) == (200, [sent])
