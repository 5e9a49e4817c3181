"""The scripts that Envoy runs, run by themselves in LuaJIT. What only a real Envoy can show is in tests/e2e."""

import json
from typing import Any

from tests.unit.lua.handle import Script


def listing(access: str, client: str, path: str) -> Any:
    script = Script("models", f'local MODELS = "gpt-4o\\topenai\\nmeta/llama\\tfarm\\n"\nlocal ACCESS = "{access}"\n')
    answer = script.request(b"", {":path": path, "x-headgate-client": client}).answer
    assert answer is not None
    status, text = answer
    return status, json.loads(text)


def test_lists_what_a_key_may_use() -> None:
    access = "alice;std;\\tgpt-*\\nbob\\tmeta/llama\\n"
    for client, ids in (("alice;std;", ["gpt-4o"]), ("bob", ["meta/llama"]), ("carol", ["gpt-4o", "meta/llama"])):
        status, body = listing(access, client, "/v1/models?limit=5")
        assert (status, [m["id"] for m in body["data"]]) == ("200", ids)


def test_tells_one_model_or_that_there_is_none() -> None:
    assert listing("", "", "/v1/models/meta%2Fllama")[1]["owned_by"] == "farm"
    status, body = listing("alice\\tgpt-*\\n", "alice", "/v1/models/meta/llama")
    assert (status, body["error"]["code"]) == ("404", "model_not_found")
    assert "'a\"b\x01'" in listing("", "", "/v1/models/a%22b%01")[1]["error"]["message"]
