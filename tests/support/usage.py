"""What a gateway's accounting says, and clients whose requests can be found in it again."""

import http.client
import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx

from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider

Row = dict[str, Any]

_numbers = itertools.count(1)
_LATEST = 200  # requests of a provider, that one is looked for among


def new_id() -> str:
    """A request id: the gateway passes it on to the provider, and records begin with it."""
    return f"request-{next(_numbers)}"


def request_id(record: Row) -> str:
    """The id that the request came with."""
    found: str = record["id"].rpartition(".")[0]
    return found


def records(gateway: Gateway, **where: str) -> list[Row]:
    """Records of single requests, newest first."""
    answer = gateway.admin.get("/usage/records", params={"limit": "1000", **where})
    found: list[Row] = answer.raise_for_status().json()["rows"]
    return found


def wait_records(gateway: Gateway, count: int, within: float = 30.0, **where: str) -> list[Row]:
    """The records, once there are not fewer than `count`."""
    eventually(lambda: len(records(gateway, **where)) >= count, f"{count} records of {where}", within)
    return records(gateway, **where)


def only_record(gateway: Gateway, request: str, within: float = 30.0) -> Row:
    """The record of one request, which must be the only one."""

    def look() -> list[Row]:
        return [each for each in records(gateway) if request_id(each) == request]

    eventually(look, f"the record of request {request}", within)
    (found,) = look()
    return found


def usage(gateway: Gateway, by: str = "", **where: str) -> list[Row]:
    """GET /usage."""
    found: list[Row] = gateway.admin.get("/usage", params={"by": by, **where}).raise_for_status().json()["rows"]
    return found


def budgets(gateway: Gateway) -> dict[tuple[str, str], Row]:
    """GET /budgets by budget and owner."""
    rows: list[Row] = gateway.admin.get("/budgets").raise_for_status().json()["rows"]
    return {(row["budget"], row["owner"]): row for row in rows}


def alarms(gateway: Gateway) -> dict[str, str]:
    """The alarms of GET /status: name and message."""
    return {each["name"]: each["message"] for each in gateway.status()["alarms"]}


def ctl(gateway: Gateway, *words: str) -> subprocess.CompletedProcess[str]:
    """The real command line, which asks this gateway's control plane."""
    return gateway.ctl(*words)


def ask(
    gateway: Gateway,
    model: str,
    *,
    key: str = "",
    path: str = "chat/completions",
    content: Row | None = None,
    **mock: str,
) -> httpx.Response:
    """One request, read to its end; `mock` are controls of the mock, written with underscores.

    The request's id is in the answer's `x-request-id`.
    """
    body = {**(content or {"messages": [{"role": "user", "content": "hi"}]}), "model": model}
    return gateway.http.post(f"/v1/{path}", json=body, headers=headers(gateway, key, **mock))


def headers(gateway: Gateway, key: str = "", **mock: str) -> dict[str, str]:
    """Headers of a new request."""
    controls = {f"x-mock-{name.replace('_', '-')}": value for name, value in mock.items()}
    return {"authorization": f"Bearer {key or gateway.key}", "x-request-id": new_id(), **controls}


def abandon(gateway: Gateway, model: str, after: int, *, key: str = "", **mock: str) -> str:
    """Reads a stream until `after` chunks came, and leaves; the request's id. Let it go on for long after that."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    sent, seen = headers(gateway, key, **mock), 0
    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", f"{gateway.base_url}/chat/completions", json=body, headers=sent) as answer,
    ):
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line.removeprefix("data: "))["choices"]
                seen += bool(choices and choices[0]["delta"].get("content"))
            if seen >= after:
                break
    return sent["x-request-id"]


def abandon_unanswered(gateway: Gateway, provider: MockProvider, model: str, *, key: str = "") -> str:
    """Leaves when the provider has the request, which it never answers; the request's id. It must record requests."""
    with unanswered(gateway, provider, model, key=key) as request:
        return request


@contextmanager
def unanswered(gateway: Gateway, provider: MockProvider, model: str, *, key: str = "", **body: Any) -> Iterator[str]:
    """A request that the provider has and never answers; its id. The client leaves in the end."""
    sent = headers(gateway, key, hang="headers") | {"content-type": "application/json"}
    request = sent["x-request-id"]
    content = {"messages": [{"role": "user", "content": "hi"}], **body, "model": model}
    with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps(content), sent)

        def arrived() -> bool:
            return any(each.header("x-request-id") == request for each in provider.requests(_LATEST))

        eventually(arrived, f"the provider has request {request}")
        yield request
