"""Calls that are refused before they reach anybody."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from controlplane.admin.wrong_use import refuse_wrong_use

_MOST = 512 << 10  # what a service may say of itself


class _Body(BaseModel):
    count: int
    names: list[int] = []


@pytest.fixture
def http() -> Iterator[TestClient]:
    app = FastAPI()
    refuse_wrong_use(app)

    @app.post("/call")
    @app.post("/register")
    async def call(body: _Body, limit: int = 1) -> None: ...

    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/call", '{"count": "sk-secret"}', "count"),
        ("/call", '{"count": 1, "names": [1, "sk-secret"]}', "names.1"),
        ("/call", '{"count": NaN}', "count"),
        ("/call", '{"count": 1e999}', "count"),
        ("/call", '{"count": ', "body"),
        ("/call", "[]", "body"),
        ("/call", "", "body"),
        ("/call?limit=sk-secret", '{"count": 1}', "limit"),
    ],
)
def test_a_wrong_field_is_named_and_what_it_held_is_not_repeated(
    http: TestClient, path: str, body: str, param: str
) -> None:
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "invalid_request", param)
    assert error["message"].startswith(f"{param}: ")
    assert "sk-secret" not in answer.text


def test_a_message_names_some_fields_and_counts_the_others(http: TestClient) -> None:
    message = http.post("/call", json={"count": 1, "names": ["x"] * 8}).json()["error"]["message"]
    assert message.endswith("; and 3 more")


def test_a_body_is_read_no_further_than_its_bound(http: TestClient) -> None:
    padded = b'{"count": 1}' + b" " * (_MOST - 12)
    headers = {"content-type": "application/json"}
    assert http.post("/register", content=padded, headers=headers).status_code == 200
    answer = http.post("/register", content=padded + b" ", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert http.post("/call", content=padded + b" ", headers=headers).status_code == 200
