"""Rules meet exactly the requests that they are for, and Envoy shows the service no more than they need."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from hypothesis import given
from hypothesis import strategies as st

from controlplane.plan import explain, request_explained, rules
from controlplane.plan.ir import Tier
from controlplane.plan.rules import Branch, Fork, Leaf
from controlplane.policy.endpoints import PATHS
from controlplane.xds import resource as xds
from extproc.server.library import Version
from extproc.usage.identity import Owner
from tests.unit.plan.compiled import compiled

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_HEAD = """\
version: 1
providers: {p: {kind: mock}}
models: {m: p, "free-*": p, "free-as-*": p, other: p}
keys:
  alice: {secret: {env: ALICE}}
  bob: {secret: {env: BOB}, team: search}
  eve: {secret: {env: EVE}, team: mail}
teams: {search: {}, mail: {}}
"""
_KEYS = {"alice": Owner("alice"), "bob": Owner("bob", "search"), "eve": Owner("eve", "mail")}
_IDENTITIES = {"alice": "alice", "bob": "search/bob", "eve": "mail/eve"}
_MODELS = ("m", "free-x", "free-as-in", "free-as-beer", "other")


def _inline(written: list[dict[str, Any]], head: str = _HEAD) -> rules.Inline:
    made = compiled(head + f"rules: {orjson.dumps(written).decode()}\n").plan.inline
    assert made is not None
    return made


def _leaf(branch: Branch, identity: str, path: str, stream: bool) -> Leaf:
    """What Envoy's lookups lead to."""
    while isinstance(branch, Fork):
        value = {"client": identity, "path": path, "stream": "1" if stream else ""}[branch.by]
        branch = dict(branch.cases).get(value, branch.others)
    return branch


def _place(inline: rules.Inline, model: str) -> rules.Place:
    """The place that the lookup of a model leads to: its name, else the longest beginning."""
    exact = [place for place in inline.places if place.pattern == model]
    wild = [p for p in inline.places if p.pattern.endswith("*") and model.startswith(p.pattern[:-1])]
    return exact[0] if exact else max(wild, key=lambda place: len(place.pattern))


_DO = st.sampled_from(
    [{"set": {"a": 1}}, {"redact": ["email"]}, {"remove_from_answer": ["id"]}, {"headers": {"x-a": "b"}}]
)
_WHEN = st.fixed_dictionaries(
    {},
    optional={
        "model": st.lists(
            st.sampled_from(["m", "free-*", "free-as-in", "free-as-*", "*", "other", "none"]), min_size=1
        ),
        "key": st.lists(st.sampled_from(["alice", "bob"]), min_size=1),
        "team": st.lists(st.sampled_from(["search", "mail"]), min_size=1),
        "path": st.lists(st.sampled_from(["/v1/chat/completions", "/v1/audio/*", "/v1/embeddings"]), min_size=1),
        "stream": st.booleans(),
    },
)


def _is_for(rule: rules.Rule, model: str, owner: Owner, path: str, stream: bool) -> bool:
    def named(patterns: tuple[str, ...] | None) -> bool:
        if patterns is None:
            return True
        return any(model.startswith(each[:-1]) if each.endswith("*") else model == each for each in patterns)

    return (
        named(rule.models)
        and (rule.keys is None or owner.key in rule.keys)
        and (rule.teams is None or owner.team in rule.teams)
        and (rule.paths is None or path in rule.paths)
        and rule.stream in (None, stream)
    )


@given(
    st.lists(
        st.fixed_dictionaries({"when": _WHEN, "do": st.lists(_DO, min_size=1, max_size=2)}), min_size=1, max_size=4
    )
)
def test_lookups_lead_to_the_rules_that_are_for_a_request(written: list[dict[str, Any]]) -> None:
    inline = _inline(written)
    known = Version(inline.document, "here")
    shown = {path: inline.shown(path) for path in (*PATHS, None)}
    for model in _MODELS:
        place = _place(inline, model)
        for name, owner in _KEYS.items():
            for path in PATHS:
                for stream in (False, True):
                    leaf = _leaf(place.branch, _IDENTITIES[name], path, stream)
                    for request, answer in (shown[path], shown[None]):
                        assert request or not leaf.request
                        assert answer or not leaf.answer
                    expected = [r for r in inline.rules.rules if _is_for(r, model, owner, path, stream)]
                    if leaf.messages:
                        assert [inline.rules.rules[at] for at in leaf.rules] == expected
                        assert [rule.name for rule in known.chain(leaf.chain).rules] == [
                            rule.spec.name for rule in expected
                        ]
                        assert leaf.closed == any(rule.spec.closed for rule in expected)
                    else:
                        needs = rules.needs_of(tuple(rule.ready for rule in expected))
                        assert not (needs.request or needs.answer or (stream and needs.stream))


@pytest.mark.parametrize(
    ("do", "streamed", "shown"),
    [
        ({"set": {"a": 1}}, False, (True, False)),
        ({"set": {"a": 1}}, True, (True, False)),
        ({"headers": {"x-a": "b"}}, False, (True, False)),
        ({"metadata": {"a": "b"}}, False, (True, False)),
        ({"remove_from_answer": ["id"]}, False, (False, True)),
        ({"remove_from_answer": ["id"]}, True, (False, True)),
        ({"redact": ["email"]}, False, (True, True)),
        ({"redact": {"find": ["email"], "on": "request"}}, True, (True, False)),
        ({"redact": {"find": ["email"], "on": "answer"}}, True, (False, True)),
        ({"validate": {}}, False, (True, False)),
        ({"choose": {"rules": [{"model": "other"}]}}, False, (True, False)),
    ],
)
def test_the_cheapest_mode_that_shows_what_a_rule_needs(do: Any, streamed: bool, shown: tuple[bool, bool]) -> None:
    leaf = _leaf(_place(_inline([{"do": [do]}]), "m").branch, "", "", streamed)
    assert (leaf.request, leaf.answer) == shown
    assert leaf.streamed is (streamed and leaf.answer)


_EMBEDDINGS, _CHAT = "/v1/embeddings", "/v1/chat/completions"


@pytest.mark.parametrize(
    ("written", "filters"),
    [
        ({"do": [{"set": {"a": 1}}]}, {_CHAT: {"rules", "hold"}, _EMBEDDINGS: {"rules", "hold"}}),
        ({"do": [{"set": {"a": 1}}], "when": {"path": [_EMBEDDINGS]}}, {_CHAT: set(), _EMBEDDINGS: {"rules", "hold"}}),
        ({"do": [{"remove_from_answer": ["id"]}]}, {_CHAT: {"rules", "answer"}}),
        ({"do": [{"redact": ["email"]}], "when": {"key": ["alice"]}}, {_CHAT: {"rules", "hold", "answer"}}),
        ({"do": [{"redact": ["email"]}], "when": {"path": [_CHAT]}}, {_EMBEDDINGS: set(), "/v1/messages": set()}),
    ],
)
def test_an_endpoint_without_rules_enables_no_filters_for_them(
    written: dict[str, Any], filters: dict[str, set[str]]
) -> None:
    made = compiled(f"{_HEAD}gateway: {{messages: true}}\nrules: {orjson.dumps([written]).decode()}\n")
    routes = RouteConfiguration.FromString(made.snapshot.of_type(xds.ROUTES)["models"].body)
    tree = routes.virtual_hosts[0].matcher  # of models, then of what comes without one
    while _EMBEDDINGS not in tree.matcher_tree.exact_match_map.map:
        tree = tree.on_no_match.matcher
    for path, expected in filters.items():
        posted = tree.matcher_tree.exact_match_map.map[path].matcher.matcher_tree.exact_match_map.map["POST"]
        first = Route()
        assert posted.matcher.on_no_match.action.typed_config.Unpack(first)
        assert {"rules", "hold", "answer"} & first.typed_per_filter_config.keys() == expected


@pytest.mark.parametrize(
    ("written", "closed"),
    [
        ({"do": [{"set": {"a": 1}}]}, False),
        ({"do": [{"set": {"a": 1}}], "on_error": "deny"}, True),
        ({"do": [{"redact": ["email"]}]}, True),
        ({"do": [{"redact": ["email"]}], "on_error": "allow"}, False),
        ({"do": [{"set": {"a": 1}}, {"validate": {}}]}, True),
    ],
)
def test_what_protects_must_hold_unless_told_otherwise(written: dict[str, Any], closed: bool) -> None:
    assert _leaf(_place(_inline([written]), "m").branch, "", "", stream=False).closed is closed


def test_a_model_without_rules_has_nothing_to_go_through() -> None:
    inline = _inline([{"when": {"model": "m"}, "do": [{"set": {"a": 1}}]}])
    assert _place(inline, "other").branch == rules.NOTHING


def test_neighbours_of_a_kind_are_one_stage() -> None:
    do = [{"set": {"a": 1}}, {"remove": ["b"]}, {"redact": ["email"]}, {"flag": ["phone"]}, {"set": {"c": 1}}]
    inline = _inline([{"do": do}])
    assert [spec.kind for spec in inline.rules.rules[0].spec.stages] == ["transform", "safety", "transform"]


def test_the_version_is_what_the_rules_say() -> None:
    one, same, other = (_inline([{"do": [{"set": {"a": value}}]}]).version for value in (1, 1, 2))
    assert one == same != other


def test_a_key_that_comes_or_goes_makes_no_new_version() -> None:
    """The control plane tells workers of new versions when a policy is applied, not when a key expires."""
    written = [{"when": {"team": "search"}, "do": [{"set": {"a": 1}}]}]
    fewer = _HEAD.replace("  bob: {secret: {env: BOB}, team: search}\n", "")
    assert fewer != _HEAD
    assert _inline(written).version == _inline(written, fewer).version


def test_many_keys_are_left_to_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    written = [{"when": {"team": "search"}, "do": [{"set": {"a": 1}}]}]
    assert isinstance(_place(_inline(written), "m").branch, Fork)
    monkeypatch.setattr(rules, "MOST_LOOKUPS", 0)
    leaf = _place(_inline(written), "m").branch
    assert isinstance(leaf, Leaf)
    assert _inline(written).rules.rules[0].spec.when.teams == ("search",)


def test_explain_tells_the_tier_the_mode_and_the_price() -> None:
    plan = compiled(_HEAD + 'rules: [{name: safe, when: {model: "free-*", key: bob}, do: [{redact: [email]}]}]\n').plan
    told = next(each for each in explain.decisions(plan) if each.path == ("rules", 0))
    assert told.tier is Tier.INLINE
    assert "the request's body in one message" in told.mechanism
    assert "us of CPU" in told.why
    assert "models free-* and keys bob" in told.why
    assert request_explained.request(plan, "free-x", "bob").rules == ("safe",)
    assert request_explained.request(plan, "free-x", "alice").rules == ()


@pytest.mark.parametrize(
    ("gateway", "more", "counts", "workers"),
    [
        ("{}", "", False, 0),
        ("{tokenize: true}", "", True, 2),
        ("{rule_workers: 3}", "rules: [{do: [{set: {a: 1}}]}]", True, 3),
        ("{tokenize: false}", "rules: [{do: [{set: {a: 1}}]}]", False, 2),
        ("{tokenize: false}", "", False, 0),
    ],
)
def test_tokens_are_counted_where_workers_run_or_it_is_asked_for(
    gateway: str, more: str, counts: bool, workers: int
) -> None:
    plan = compiled(f"{_HEAD}gateway: {gateway}\n{more}\n").plan
    assert (plan.counts, plan.workers, plan.ruled) == (counts, workers, bool(more))
    told = [each for each in explain.decisions(plan) if each.path == ("gateway", "tokenize")]
    assert [each.tier for each in told] == ([Tier.INLINE] if counts else [])


def test_models_are_part_of_the_settings_where_tokens_are_counted() -> None:
    """An edit of models is a new version for those who count, and none for others."""

    def version(models: str, do: str, gateway: str = "{tokenize: false}") -> str:
        head = f"version: 1\ngateway: {gateway}\nproviders: {{p: {{kind: mock}}}}\nmodels: {models}\n"
        return _inline([{"do": [orjson.loads(do)]}], head).version

    few, more = "{m: p}", "{m: p, n: p}"
    assert version(few, '{"set": {"a": 1}}') == version(more, '{"set": {"a": 1}}')
    assert version(few, '{"tokens": {}}') != version(more, '{"tokens": {}}')
    assert version(few, '{"set": {"a": 1}}', "{}") != version(more, '{"set": {"a": 1}}', "{}")


def test_explain_tells_what_a_webhook_may_take() -> None:
    hook = 'webhooks: {guard: {url: "https://guard/", secret: {env: WHSEC}}}\n'
    plan = compiled(_HEAD + hook + "rules: [{do: [{webhook: {to: guard, timeout: 300ms}}]}]\n").plan
    told = {each.path: each for each in explain.decisions(plan)}
    assert "waits for the webhook guard, 300 ms at most" in told["rules", 0].why
    assert "requests fail without it" in told["rules", 0].why
    assert ("webhooks", "guard") not in told


def test_a_new_secret_of_a_webhook_is_a_new_version() -> None:
    hook = 'webhooks: {guard: {url: "https://guard/", secret: {env: %s}}}\n'
    one, other = (
        _inline([{"do": [{"webhook": "guard"}]}], _HEAD + hook % name).version for name in ("WHSEC_ONE", "WHSEC_TWO")
    )
    assert one != other
