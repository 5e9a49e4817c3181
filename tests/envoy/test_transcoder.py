"""Envoy's own translation against the gateway's, by the cases that the gateway's is held to.

`gateway.experimental: [native_translation]` may be accepted only where both are the same. Where this file fails with a
newer Envoy, there is something to accept: see docs/decisions/0017-envoys-own-translation.md.
"""

import json
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from controlplane.policy.experiments import LACKING
from controlplane.policy.providers import KINDS
from controlplane.runtime.envoy import find_envoy
from tests.golden.translate.test_translate import CASES
from tests.support.gateway import eventually
from tests.support.wired import Answer, WiredProvider
from tests.unit.translate.answers import Step, stream, whole

Pair = tuple[str, str]
APIS = {"openai": "OPENAI_CHAT_COMPLETIONS", "anthropic": "ANTHROPIC_MESSAGES", "gemini": "GEMINI_GENERATE_CONTENT"}
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
PAIRS: list[Pair] = [(client, provider) for client in PATHS for provider in APIS if client != provider]
TYPES = "type.googleapis.com/envoy.extensions."
MANAGER = TYPES + "filters.http.ai_protocol_manager.v3.AiProtocolManager"
TRANSCODER = TYPES + "http.ai_filters.transcoder.v3.Transcoder"
HTTP = TYPES + "filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = TYPES + "filters.http.router.v3.Router"


class Transcoder:
    """An Envoy with a listener for each pair of dialects, in front of a provider whose answer a test chooses."""

    def __init__(self, folder: Path, provider: WiredProvider) -> None:
        self._folder = folder
        self._provider = provider
        self._clients = {
            pair: httpx.Client(transport=httpx.HTTPTransport(uds=str(self._socket(pair))), base_url="http://edge")
            for pair in PAIRS
        }

    def start(self) -> "subprocess.Popen[bytes]":
        config = self._folder / "envoy.json"
        config.write_text(json.dumps(self._bootstrap()))
        command = [find_envoy(), "-c", config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]
        with (self._folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stderr=log, stdout=log, env={})
        try:
            eventually(lambda: process.poll() is not None or all(map(self._serves, PAIRS)), "listeners")
            assert process.poll() is None, (self._folder / "log").read_text()
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def ask(self, pair: Pair, body: Any, answer: Answer) -> tuple[Any, httpx.Response | None]:
        """What the provider was sent (None: nothing), and what the client got (None: a broken answer)."""
        self._provider.asked.clear()
        self._provider.answer = lambda _: answer
        try:
            got = self._clients[pair].post(PATHS[pair[0]], json=body, timeout=60)
        except httpx.RemoteProtocolError:
            got = None
        return (self._provider.asked[0].json() if self._provider.asked else None), got

    def _serves(self, pair: Pair) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:  # httpx leaves sockets open that it could not connect
            return probe.connect_ex(str(self._socket(pair))) == 0

    def _socket(self, pair: Pair) -> Path:
        return self._folder / "-".join(pair)

    def _bootstrap(self) -> Any:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": self._provider.port}}
        endpoints = {"endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
        provider = {"name": "provider", "type": "STATIC", "load_assignment": {"cluster_name": "provider", **endpoints}}
        return {"static_resources": {"listeners": [self._listener(pair) for pair in PAIRS], "clusters": [provider]}}

    def _listener(self, pair: Pair) -> Any:
        client, provider = pair
        steps = [("TO_IR", "FROM_IR")] * (client != "openai") + [("FROM_IR", "TO_IR")] * (provider != "openai")
        filters = [_extension("envoy.http.ai_filters.transcoder", TRANSCODER, request_handling=asked,
                              response_handling=told) for asked, told in steps]  # fmt: skip
        manager = _extension("envoy.filters.http.ai_protocol_manager", MANAGER, request_handling={},
                             response_handling={}, filters=filters)  # fmt: skip
        apis = {"request": {"llm_protocol": APIS[client]}, "response": {"llm_protocol": APIS[provider]}}
        route = {
            "match": {"prefix": "/"},
            "route": {"cluster": "provider"},
            "typed_per_filter_config": {
                "envoy.filters.http.ai_protocol_manager": {"@type": MANAGER + "PerRoute", **apis}
            },
        }
        http = _extension("http", HTTP, stat_prefix="edge",
                          route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
                          http_filters=[manager, _extension("envoy.filters.http.router", ROUTER)])  # fmt: skip
        pipe = {"pipe": {"path": str(self._socket(pair))}}
        return {"name": "-".join(pair), "address": pipe, "filter_chains": [{"filters": [http]}]}


def _extension(name: str, kind: str, **config: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": kind, **config}}


@pytest.fixture(scope="module")
def transcoder() -> Iterator[Transcoder]:
    with tempfile.TemporaryDirectory(prefix="hg-") as folder, WiredProvider(lambda _: Answer(200, b"{}")) as provider:
        made = Transcoder(Path(folder), provider)
        process = made.start()
        try:
            yield made
        finally:
            process.terminate()
            process.wait(60)
            made.close()


@pytest.mark.parametrize("pair", PAIRS, ids="-to-".join)
def test_no_shared_case_comes_out_the_same(transcoder: Transcoder, pair: Pair) -> None:
    cases = [case for case in CASES if case.stem.startswith("_to_".join(pair) + "_")]
    assert cases
    assert [case.stem for case in cases if same(transcoder, pair, case)] == []


def same(transcoder: Transcoder, pair: Pair, case: Path) -> bool:
    """Whether the provider and the client get what the case says; the order of keys and times do not count."""
    parts = re.split(r"^--- (.*)\n", case.read_text(), flags=re.MULTILINE)
    given = list(zip(parts[1::2], parts[2::2], strict=True))
    request = json.loads(given[0][1]) | {"model": yaml.safe_load(parts[0])["model"]}
    refused = given[1][0] == "refused"
    wanted = None if refused else _value(given[1][1])
    if transcoder.ask(pair, request, Answer(200, b"{}"))[0] != wanted:
        return False
    return all(
        _told(transcoder.ask(pair, request, _answer(name, text))[1]) == _value(given[number + 1][1])
        for number, (name, text) in enumerate(given)
        if name.startswith("answer ")
    )


def _answer(name: str, text: str) -> Answer:
    _, status, kind, *more = name.split(" ")
    return Answer(int(status), text.encode(), kind, dict(pair.partition("=")[::2] for pair in more))


def _told(got: httpx.Response | None) -> Any:
    return None if got is None else _value(got.text)


def _value(text: str) -> Any:
    """A JSON body without the time, behind whatever lines; streams are the texts of their events."""
    if text.startswith(("data:", "event:", ":")):
        return text
    start = text.find("{")
    try:
        value = json.loads(text[start:]) if start >= 0 else text
    except ValueError:
        return text
    return {name: held for name, held in value.items() if name != "created"} if isinstance(value, dict) else value


def test_tool_calls_vanish_from_anthropics_answers(transcoder: Transcoder) -> None:
    answer = whole("anthropic", [Step("text", "Look:"), Step("call", "Bern", "weather")])
    _, got = transcoder.ask(("openai", "anthropic"), _hi("claude"), Answer(200, answer))
    assert got is not None
    assert got.json()["choices"][0]["message"] == {"role": "assistant", "content": "Look:"}
    assert "vanish" in LACKING["anthropic"]


def test_a_broken_stream_of_geminis_looks_whole(transcoder: Transcoder) -> None:
    events = stream("gemini", [Step("text", "Hello"), Step("text", "world")])
    broken = events[: events.index(b"data:", 1)]
    _, got = transcoder.ask(("openai", "gemini"), _hi("gemini"), Answer(200, broken, "text/event-stream"))
    assert got is not None
    assert got.text.endswith("data: [DONE]\n\n")
    assert '"finish_reason":"' not in got.text
    assert "looks whole" in LACKING["gemini"]


def test_images_of_anthropics_clients_are_sent_as_they_are(transcoder: Transcoder) -> None:
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aW1n"}}
    body = {"model": "gpt", "max_tokens": 9, "messages": [{"role": "user", "content": [block]}]}
    sent, _ = transcoder.ask(("anthropic", "openai"), body, Answer(200, b"{}"))
    assert sent["messages"][0]["content"] == [block]


def test_every_kind_has_its_reason() -> None:
    assert set(LACKING) == set(KINDS)


def _hi(model: str) -> Any:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]}
