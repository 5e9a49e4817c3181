"""The script that names clients of outside issuers, run by itself on whatever a token may say."""

import json
from typing import Any

from envoy.extensions.filters.http.composite.v3 import composite_pb2 as composite
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from hypothesis import given
from hypothesis import strategies as st

from controlplane.plan.ir import Issuer
from controlplane.policy.secrets import SecretRef
from controlplane.xds import issuers
from extproc.usage.identity import Owner, owner
from tests.unit.lua.handle import SCRIPTS, lua

ISS = "https://corp.example"
CORP = Issuer(
    name="corp", issuer=ISS, audiences=("a",), keys=SecretRef("file", "x"), key_claim="sub", team_claim="groups",
    limits_claim="plan", models_claim="models",
    teams=(("eng", Owner("corp:", "search", "acme")), ("R&D", Owner("corp:"))),
    otherwise=Owner("corp:", "guests"), models=("m",), limits=("std",),
    budgets=("$own",), named_limits=("std", "big"),
)  # fmt: skip
_HANDLE = """
function run(payload, headers)
  local answer
  envoy_on_request({
    headers = function()
      return {
        get = function(_, name) return headers[name] end,
        replace = function(_, name, value) headers[name] = value end,
        remove = function(_, name) headers[name] = nil end,
      }
    end,
    streamInfo = function()
      local metadata = {get = function() return {payload = payload} end, set = function() end}
      return {dynamicMetadata = function() return metadata end}
    end,
    respond = function(_, head, body) answer = {head[":status"], body} end,
  })
  return headers, answer
end
"""


def _source() -> str:
    action = issuers.identities((CORP,), ["llama-*"]).xds_matcher.matcher_tree.exact_match_map.map[ISS].action
    run, script = composite.ExecuteFilterAction(), lua_pb2.Lua()
    assert action.typed_config.Unpack(run)
    assert run.typed_config.typed_config.Unpack(script)
    source: str = script.default_source_code.inline_string
    assert source.endswith((SCRIPTS / "identity.lua").read_text())
    return source


RUNTIME = lua.LuaRuntime(encoding="utf-8")
RUNTIME.execute(_source() + _HANDLE)


def _table(value: Any) -> Any:
    if isinstance(value, dict):
        return RUNTIME.table_from({key: _table(of) for key, of in value.items()})
    return RUNTIME.table_from([_table(of) for of in value]) if isinstance(value, list) else value


def named(**claims: Any) -> tuple[dict[str, str], str | None]:
    """The headers after the script, and the claim that a refusal blames."""
    headers = {"x-headgate-issuer": ISS, "x-headgate-client": "forged", "x-headgate-grant": ";forged;"}
    after, answer = RUNTIME.globals().run(_table(claims), _table(headers))
    if answer is None:
        return dict(after), None
    assert answer[1] == "401"
    error = json.loads(answer[2])["error"]
    assert error["code"] == "invalid_api_key"
    return dict(after), error["message"].partition("claim `")[2].partition("`")[0]


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=8), of, max_size=3),
    max_leaves=6,
)
_CLAIMS = ("sub", "groups", "plan", "models")
_texts = st.sampled_from(["eng", "R&D", "std", "big", "m", "llama-*", "*", "x;big;", "", "search/root", "a/b", "std;"])


@given(
    st.fixed_dictionaries(
        {}, optional={n: _json | _texts | st.lists(_texts) for n in ("sub", "groups", "plan", "models")}
    )
)
def test_whatever_a_token_says_its_client_stays_within_the_issuers(claims: dict[str, Any]) -> None:
    headers, refused = named(**claims)
    client = headers.get("x-headgate-client")
    if refused is not None:
        assert client is None
        assert refused in _CLAIMS
        return
    assert client is not None
    who = owner(client)
    assert who.key == f"corp:{claims['sub']}"
    assert (who.organization, who.team) in {("acme", "search"), ("", "guests"), ("", "")}
    assert set(client.partition(";")[2].split(";")) <= {"std", "big", "$own", ""}
    models = claims.get("models")
    # Null is nothing to the script, so a list may end with it.
    names = [models] if isinstance(models, str) else [name for name in models or [] if name is not None]
    granted = ";" + ";".join([] if isinstance(models, dict) else names) + ";"
    assert headers["x-headgate-grant"] == ("=corp" if models is None else granted)


def test_the_first_known_team_counts() -> None:
    for groups, client in (
        (["staff", "R&D", "eng"], "acme/search/corp:bob;std;$own;"),
        ("R&D", "corp:bob;std;$own;"),
        (["x"], "guests/corp:bob;std;$own;"),
        (None, "guests/corp:bob;std;$own;"),
    ):  # fmt: skip
        claims = {"sub": "bob"} | ({} if groups is None else {"groups": groups})
        assert named(**claims)[0]["x-headgate-client"] == client


def test_limits_and_models_of_claims_take_the_place_of_the_issuers() -> None:
    headers, _ = named(sub="bob", plan=["std", "big", "std"], models=["m", "llama-*"])
    assert headers["x-headgate-client"] == "guests/corp:bob;big;std;$own;"
    assert headers["x-headgate-grant"] == ";m;llama-*;"
    assert named(sub="bob", plan=[])[0]["x-headgate-client"] == "guests/corp:bob;$own;"
    assert named(sub="bob")[0]["x-headgate-grant"] == "=corp"
    assert named(sub="bob", plan="other")[1] == "plan"
    assert named(sub="bob", models=["m", None, "n"])[1] == "models"
    assert named(sub="bob", models="gpt-*")[1] == "models"
    assert named()[1] == "sub"
