"""Edits while requests are in flight: a good one is live, a bad one changes nothing, and no request notices either."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider
from tests.support.ports import free_port
from tests.support.usage import ask, ctl, only_record

BASE = "providers: {p: {kind: mock}}\nmodels: {m: p}\nkeys: {a: {secret: {env: A}}}\n"
ENV = {"A": "sk-a", "B": "sk-b"}


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway(BASE, env=ENV, key="sk-a") as running:
        yield running


def test_a_bad_edit_changes_nothing_and_is_told_with_its_place(gateway: Gateway) -> None:
    gateway.edit(BASE.replace("{m: p}", "{m: p, n: q}"))
    failure = eventually(lambda: gateway.status()["failure"], "the failure is known")
    assert gateway.status()["live"]["revision"] == 1
    assert gateway.chat("m").status_code == 200
    (found,) = failure["diagnostics"]
    assert (found["code"], found["path"], found["line"]) == ("unknown-name", "models.n", 8)
    eventually(lambda: "policy.yaml:8:" in gateway.output(), "the terminal says where")
    gateway.edit(BASE.replace("{m: p}", "{m: p, n: p}"))
    gateway.wait_revision(2)
    assert gateway.status()["failure"] is None
    assert gateway.chat("n").status_code == 200


def test_a_policy_that_cannot_be_read_is_told_until_it_can(gateway: Gateway) -> None:
    file = gateway.folder / "policy.yaml"
    gateway.write("policy.yaml", b"version: 1\n# \xff\n")
    failure = eventually(lambda: gateway.status()["failure"], "the failure is known")
    assert [(d["code"], d["line"], d["column"]) for d in failure["diagnostics"]] == [("not-utf8", 2, 3)]
    file.unlink()
    gone = eventually(lambda: (found := gateway.status()["failure"])["code"] == "policy-unreadable" and found, "gone")
    assert gone["message"] == f"{file} cannot be read: No such file or directory"
    assert gateway.chat("m").status_code == 200
    gateway.edit(BASE)
    eventually(lambda: gateway.status()["failure"] is None, "it reads as it did before")
    assert gateway.revision() == 1


def test_an_edit_that_lacks_a_secret_is_live_once_that_is_there(gateway: Gateway) -> None:
    gateway.edit(BASE.replace("{a: {", "{b: {secret: {file: b}}, a: {"))
    eventually(lambda: gateway.status()["failure"], "the secret is missed")
    gateway.write("b", "sk-b\n")
    gateway.wait_revision(2)
    assert gateway.status()["failure"] is None
    assert gateway.chat("m", key="sk-b").status_code == 200
    gateway.write("b", "sk-new\n")
    eventually(lambda: "live with what is now in b\n" in gateway.output(), "the terminal says so")
    assert gateway.chat("m", key="sk-new").status_code == 200


def test_a_hundred_edits_under_load_fail_no_request(gateway: Gateway) -> None:
    stop, failures, done = threading.Event(), list[str](), list[int]()
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    headers = {"authorization": "Bearer sk-a"}

    def ask() -> None:
        with httpx.Client(base_url=gateway.base_url, timeout=60) as client:
            while not stop.is_set():
                try:
                    answer = client.post("/chat/completions", json=body, headers=headers)
                    done.append(answer.status_code)
                except httpx.HTTPError as error:
                    failures.append(repr(error))

    def stream() -> None:
        slow = {**headers, "x-mock-chunks": "200", "x-mock-chunk-delay": "50ms"}
        with httpx.stream(
            "POST", f"{gateway.base_url}/chat/completions", json={**body, "stream": True}, headers=slow, timeout=60
        ) as answer:
            if not any(line == "data: [DONE]" for line in answer.iter_lines()):
                failures.append("the stream did not end")

    threads = [threading.Thread(target=ask) for _ in range(3)] + [threading.Thread(target=stream)]
    for thread in threads:
        thread.start()
    for number in range(100):
        # Routes, keys, clusters, endpoints and the listener all change in turns.
        more = (
            f"models: {{m: p, n{number}: p}}",
            f"models: {{m: p}}\nlimits: {{l{number}: {{requests: 1M/s}}}}",
            f"models: {{m: p, o: o}}\n# {number}",
            "models: {m: p}",
        )[number % 4]
        other = f", o: {{kind: openai, base_url: 'http://127.0.0.1:{9 + number}/v1'}}" if number % 4 == 2 else ""
        keys = f"keys: {{a: {{secret: {{env: A}}}}{', b: {secret: {env: B}}' if number % 2 else ''}}}"
        gateway.apply_edit(f"providers: {{p: {{kind: mock}}{other}}}\n{more}\n{keys}\n")
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert set(done) == {200}
    assert len(done) > 300


def test_a_limit_keeps_its_counts_over_an_unrelated_edit() -> None:
    policy = BASE.replace("{env: A}}", "{env: A}, limits: [few]}") + "limits: {few: {requests: 3/h}}\n"
    with Gateway(policy, env=ENV, key="sk-a") as gateway:
        assert [gateway.chat("m").status_code for _ in range(4)] == [200, 200, 200, 429]
        gateway.apply_edit(policy.replace("{m: p}", "{m: p, n: p}"))
        assert gateway.chat("n").status_code == 429
        gateway.apply_edit(policy.replace("keys: {", "keys: {b: {secret: {env: B}}, "))
        assert gateway.chat("m").status_code == 429
        assert gateway.chat("m", key="sk-b").status_code == 200


def test_a_long_stream_outlives_a_change_of_the_listener(gateway: Gateway) -> None:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"authorization": "Bearer sk-a", "x-mock-chunks": "30", "x-mock-chunk-delay": "100ms"}
    with httpx.stream("POST", f"{gateway.base_url}/chat/completions", json=body, headers=headers, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        gateway.apply_edit(BASE + "limits: {few: {requests: 3/m}}\n")
        assert "data: [DONE]" in list(lines)


def test_a_secret_file_that_changes_is_used_at_once() -> None:
    with MockProvider() as upstream:
        policy = f"""
providers: {{u: {{kind: openai, base_url: "{upstream.base_url}", api_key: {{file: key}}}}}}
models: {{m: u}}
"""
        with Gateway(policy, files={"key": "first\n"}) as gateway:
            gateway.chat("m")
            assert upstream.requests()[-1].header("authorization") == "Bearer first"
            gateway.write("key", "second\n")

            def rotated() -> bool:
                gateway.chat("m")
                return upstream.requests()[-1].header("authorization") == "Bearer second"

            eventually(rotated, "the new credential is sent")


def test_a_key_expires_by_itself() -> None:
    with Gateway(BASE, env=ENV, key="sk-a") as gateway:
        assert gateway.chat("m").status_code == 200
        moment = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
        gateway.write("policy.yaml", gateway.text(BASE.replace("{env: A}}", f'{{env: A}}, expires: "{moment}"}}')))
        eventually(lambda: gateway.chat("m").status_code == 401, "the key is refused", within=60)
        assert gateway.chat("m").json()["error"]["code"] == "invalid_api_key"


def test_an_address_that_is_taken_is_refused_and_changes_nothing(gateway: Gateway) -> None:
    taken = f"127.0.0.1:{gateway.admin_port}"
    text = gateway.text(BASE).replace(f"listen: 127.0.0.1:{gateway.port}", f"listen: {taken}")
    text = text.replace(f"admin: {taken}", f"admin: 127.0.0.1:{free_port()}")
    answer = gateway.admin.post("/apply", json={"policy": text})
    assert (answer.status_code, answer.json()["error"]) == (409, "address-in-use")
    assert gateway.chat("m").status_code == 200


def test_moving_to_another_address_is_live_and_says_what_must_wait(gateway: Gateway) -> None:
    port = free_port()
    gateway.write("policy.yaml", gateway.text(BASE, "drain: 5s").replace(str(gateway.port), str(port)))
    eventually(lambda: gateway.revision() == 2, "the edit is live")

    def serves() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        except httpx.HTTPError:
            return False

    eventually(serves, "the new address serves")
    eventually(lambda: "gateway.drain" in gateway.output(), "what takes effect at the next start is told")


def test_a_ledger_that_is_moved_waits_for_the_next_start_and_says_so(gateway: Gateway) -> None:
    gateway.write("url", f"sqlite:///{gateway.folder}/other.db")
    text = gateway.text(BASE, "ledger: {file: url}")
    told = gateway.admin.post("/diff", json={"policy": text}).json()
    assert told["at_next_start"] == ["gateway.ledger"]
    applied = gateway.admin.post("/apply", json={"policy": text}).raise_for_status().json()
    assert applied["difference"]["at_next_start"] == gateway.status()["at_next_start"] == ["gateway.ledger"]
    shown = ctl(gateway, "status").stdout
    assert "at the next start: gateway.ledger changed" in shown
    answer = ask(gateway, "m")
    only_record(gateway, answer.headers["x-request-id"])  # in the ledger that it was started with
    assert not (gateway.folder / "other.db").exists()


def test_the_admin_api_refuses_pages_of_other_sites_and_other_names(gateway: Gateway) -> None:
    assert gateway.admin.get("/status", headers={"origin": "https://evil.example"}).status_code == 403
    assert gateway.admin.get("/status", headers={"host": "evil.example"}).status_code == 400


def test_an_edit_is_live_within_half_a_second(gateway: Gateway) -> None:
    """On a machine that other tests keep busy, the best of ten counts."""
    took: list[float] = []
    while len(took) < 10 and min(took, default=1.0) >= 0.5:
        number = len(took)
        began = time.monotonic()
        gateway.edit(BASE.replace("{m: p}", f"{{m: p, fast{number}: p}}"))
        eventually(lambda name=f"fast{number}": gateway.chat(name).status_code == 200, "the model is served")  # type: ignore[misc]
        took.append(time.monotonic() - began)
    assert min(took) < 0.5
