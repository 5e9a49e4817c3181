"""The scripts that Envoy runs, run by themselves in LuaJIT. What only a real Envoy can show is in tests/e2e."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.lua.handle import SCRIPTS, Script, lua


def listing(access: str, client: str, path: str) -> Any:
    rows = "gpt-4o\\topenai\\nmeta/llama\\tfarm\\nany-*\\tone\\nany-b*\\tother\\n"
    script = Script("models", f'local MODELS = "{rows}"\nlocal ACCESS = "{access}"\n')
    answer = script.request(b"", {":path": path, "x-headgate-client": client}).answer
    assert answer is not None
    status, text = answer
    return status, json.loads(text.encode("latin-1"))  # bytes, as Lua has them


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


def test_tells_a_model_of_a_pattern() -> None:
    assert listing("", "", "/v1/models/any-a") == (
        "200", {"id": "any-a", "object": "model", "created": 0, "owned_by": "one"},
    )  # fmt: skip
    assert listing("", "", "/v1/models/any-b1")[1]["owned_by"] == "other"
    assert listing("alice\\tany-b*\\n", "alice", "/v1/models/any-a")[0] == "404"


@given(text=st.text())
def test_every_name_of_a_pattern_is_told_as_it_was_asked_for(text: str) -> None:
    assert listing("", "", "/v1/models/any-" + quote(text, safe=""))[1]["id"] == f"any-{text}"


@given(raw=st.binary())
def test_bytes_that_are_no_text_are_told_as_json(raw: bytes) -> None:
    assert listing("", "", "/v1/models/any-" + quote(raw, safe=""))[0] == "200"


def members(path: str) -> Any:
    """What facts.lua hands on for a path."""
    before = """
local PIECES = "\\"a\\":1\\n\\"b\\":[\\"%d\\"]\\n\\"c\\":{}\\n"
local LISTS = "1 3\\n2 3\\n2\\n\\n"
local ROWS = "gpt-4o\\t1\\t2\\nmeta/llama.1\\t3\\t4\\n"
"""
    script = Script("facts", before)
    script.request(b"", {":path": path})
    return script.dynamic("headgate.facts", "members")


def test_hands_on_the_parts_of_a_model() -> None:
    assert members("/v1/models/gpt-4o?x=1") == '"a":1,"c":{},"parameters":{"b":["%d"],"c":{}}'
    assert members("/v1/models/meta%2Fllama.1") == members("/v1/models/meta/llama.1") == '"b":["%d"],"parameters":{}'
    for path in (
        "/v1/models",
        "/v1/models/",
        "/v1/models/gpt-4",
        "/v1/models/4o",
        "/v1/models/llama.1",
        "/v1/models/1%093",
    ):
        assert members(path) is None


SPENT_BEFORE = """
local DENIALS = {["alice;std;"] = {until_s = 1e12, rate = false, body = "static"}}
local OUTSIDE = {
  ["acme/search/corp:"] = {downgrade = "cheap"},
  ["acme/search/corp:bob"] = {until_s = 1e12, rate = false, body = "bob"},
  ["acme/search/corp:eve"] = {downgrade = "cheaper"},
  ["ads/corp:"] = {until_s = 1e12, rate = false, body = "all"},
  ["ads/corp:eve"] = {downgrade = "cheaper"},
  ["free/corp:eve"] = {downgrade = "cheaper"},
}
"""


@pytest.mark.parametrize(
    ("client", "body", "instead"),
    [
        ("alice;std;", "static", None),
        ("alice", None, None),
        ("acme/search/corp:bob;std;", "bob", None),
        ("acme/search/corp:bob", "bob", None),
        ("acme/search/corp:bobby;std;", None, "cheap"),
        ("acme/search/corp:eve", None, "cheap"),
        ("ads/corp:eve;std;", "all", None),  # what ends requests comes before what makes them cheaper
        ("ads/corp:a:b", "all", None),
        ("free/corp:eve", None, "cheaper"),
        ("free/corp:bob", None, None),
        ("corp", None, None),
    ],
)
def test_clients_of_outside_issuers_are_denied_by_how_their_identity_begins(
    client: str, body: str | None, instead: str | None
) -> None:
    runtime = lua.LuaRuntime(encoding="latin-1")
    headers = runtime.table_from({"x-headgate-client": client})
    runtime.execute(SPENT_BEFORE + (SCRIPTS / "spent.lua").read_text() + _SPENT_HANDLE)
    answer = runtime.globals().run(headers)
    assert (answer, headers["x-headgate-instead"]) == (body, instead)


@pytest.mark.parametrize(("path", "anthropic"), [("/v1/chat/completions", False), ("/v1/messages?beta=true", True)])
def test_a_spent_budget_is_told_in_the_shape_of_the_api(path: str, anthropic: bool) -> None:
    usual = {"error": {"message": "The budget `m` is spent.", "type": "insufficient_quota", "param": None, "code": "c"}}
    body = json.dumps(usual, separators=(",", ":"))
    runtime = lua.LuaRuntime(encoding="latin-1")
    before = f"local DENIALS = {{a = {{until_s = 1e12, rate = false, body = '{body}'}}}}\nlocal OUTSIDE = {{}}\n"
    runtime.execute(before + (SCRIPTS / "spent.lua").read_text() + _SPENT_HANDLE)
    told = json.loads(runtime.globals().run(runtime.table_from({"x-headgate-client": "a", ":path": path})))
    if anthropic:
        assert told.pop("type") == "error"
        usual["error"]["type"] = "rate_limit_error"
    assert told == usual


_SPENT_HANDLE = """
function run(headers)
  local said
  envoy_on_request({
    headers = function()
      return {
        get = function(_, name) return headers[name] end,
        replace = function(_, name, value) headers[name] = value end,
      }
    end,
    timestampString = function() return "1000" end,
    streamInfo = function()
      return {dynamicMetadata = function() return {set = function() end} end}
    end,
    respond = function(_, head, body) said = body end,
  })
  return said
end
"""
