"""Budgets that tell a receiver: what arrives, when it is down, and when the collector is killed."""

import base64
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.forked import ROOT
from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider
from tests.support.ports import free_port
from tests.support.usage import alarms, ask, budgets

SECRET = "whsec_" + base64.b64encode(b"a signing secret of 32 bytes....").decode()
PATH = "/hook-SECRETPATH"
_POLICY = """
providers: {{p: {{kind: openai, base_url: "{base_url}"}}}}
models: {{"m-*": p}}
webhooks:
  ops: {{url: {{env: HOOK_URL}}, secret: {{env: HOOK_SECRET}}}}
budgets:
  four: {{requests: 4, per: day, window: rolling, warn: [0.5], webhooks: ops}}
keys:
  a: {{secret: {{env: A}}, budget: four}}
"""
_KEY = "sk-a-0123456789abcdef"


def _from_the_guide() -> Any:
    """The receiver's check, as docs/webhooks.md shows it."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/webhooks.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["verified"]


verified = _from_the_guide()


@dataclass
class Receiver:
    """Takes calls at a fixed port while it is up."""

    port: int = field(default_factory=free_port)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    @contextmanager
    def up(self) -> Iterator[None]:
        got = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def events(self) -> list[str]:
        """The types of what came, each event once."""
        assert all(verified(headers, body, SECRET) for headers, body in self.got)
        return list({headers["webhook-id"]: json.loads(body)["type"] for headers, body in self.got}.values())


@pytest.fixture(scope="module")
def provider() -> Iterator[MockProvider]:
    with MockProvider() as mock:
        yield mock


def _gateway(provider: MockProvider, receiver: Receiver) -> Gateway:
    env = {"HOOK_URL": receiver.url, "HOOK_SECRET": SECRET, "A": _KEY}
    return Gateway(_POLICY.format(base_url=provider.base_url), env=env, key=_KEY)


def _spend(gateway: Gateway, count: int) -> None:
    for _ in range(count):
        assert ask(gateway, "m-a").status_code == 200


def _used(gateway: Gateway, amount: int) -> None:
    eventually(lambda: budgets(gateway).get(("four", "a"), {}).get("used") == amount, f"{amount} are counted")


def test_a_budget_tells_of_its_warning_and_its_end_once(provider: MockProvider) -> None:
    receiver = Receiver()
    with receiver.up(), _gateway(provider, receiver) as gateway:
        _spend(gateway, 2)
        eventually(lambda: receiver.events() == ["budget.warn"], "the warning arrives", 60)
        _spend(gateway, 2)
        eventually(lambda: len(receiver.events()) == 2, "the end arrives", 60)
        eventually(lambda: not list(gateway.folder.glob("state/usage/outbox/*")), "the outbox is empty")
        assert [json.loads(body)["type"] for _, body in receiver.got] == ["budget.warn", "budget.spent"]
        warned, spent = (json.loads(body) for _, body in receiver.got)
        assert (warned["used"], warned["amount"], warned["threshold"]) == ("2", "4", 0.5)
        assert (spent["used"], spent["account"]["owner"], spent["account"]["unit"]) == ("4", "a", "requests")
        assert not verified(receiver.got[0][0], receiver.got[0][1] + b" ", SECRET)
        _nothing_secret_in(gateway)


def _nothing_secret_in(gateway: Gateway) -> None:
    shown = gateway.admin.get("/snapshot").text + gateway.admin.get("/status").text + gateway.output()
    told = gateway.files().values()
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in gateway.processes().values()]
    for secret in (SECRET.encode(), SECRET.removeprefix("whsec_").encode(), PATH.encode()):
        assert secret not in shown.encode()
        assert not any(secret in each for each in (*told, *commands))


def test_a_receiver_that_is_down_raises_an_alarm_and_gets_everything_when_it_is_back(provider: MockProvider) -> None:
    receiver = Receiver()
    with _gateway(provider, receiver) as gateway:
        _spend(gateway, 4)
        _used(gateway, 4)
        eventually(lambda: "webhook/ops" in alarms(gateway), "the alarm stands", 60)
        assert "ConnectError" in alarms(gateway)["webhook/ops"]
        os.kill(gateway.process("usage"), signal.SIGKILL)  # which neither loses events nor makes new ones of them
        with receiver.up():
            eventually(lambda: sorted(receiver.events()) == ["budget.spent", "budget.warn"], "both arrive", 120)
            eventually(lambda: "webhook/ops" not in alarms(gateway), "the alarm is over", 60)
            eventually(lambda: not list(gateway.folder.glob("state/usage/outbox/*")), "the outbox is empty")
        assert len(receiver.got) == 2


def test_what_is_told_once_is_not_told_again_after_a_kill(provider: MockProvider) -> None:
    receiver = Receiver()
    with receiver.up(), _gateway(provider, receiver) as gateway:
        _spend(gateway, 2)
        eventually(lambda: receiver.events() == ["budget.warn"], "the warning arrives")
        eventually(lambda: not list(gateway.folder.glob("state/usage/outbox/*")), "the outbox is empty")
        os.kill(gateway.process("usage"), signal.SIGKILL)
        _spend(gateway, 2)
        eventually(lambda: len(receiver.events()) == 2, "the end arrives", 60)
        assert receiver.events() == ["budget.warn", "budget.spent"]
