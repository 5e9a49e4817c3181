"""Who translates for whom: endpoints part to the targets that serve them, and only other dialects get own lanes."""

from controlplane.plan import explain, request_explained
from controlplane.plan.dialects import Surface
from controlplane.plan.ir import Route, Tier
from controlplane.plan.translation_explained import WHOLE_US
from controlplane.xds import names
from tests.unit.plan.compiled import compiled

TEXT = """\
version: 1
providers:
  claude: {kind: anthropic}
  gpt: {kind: openai}
  gem: {kind: gemini}
models:
  sonnet: claude
  four: gpt
  pro: gem
  all: {try: [{provider: claude, model: c}, [{provider: gpt, model: g}, {provider: gem, model: m}]]}
"""
MADE = compiled(TEXT).plan


def ways(name: str) -> dict[Surface, list[str] | None]:
    """Clusters by endpoint; None: refused."""
    (route,) = [route for route in MADE.routes if route.name == name]
    named = {surface: way.route for way in route.ways for surface in way.surfaces}
    return {surface: _clusters(named.get(surface, route)) for surface in Surface}


def _clusters(route: Route | None) -> list[str] | None:
    return None if route is None else [names.target_cluster(target) for target in route.targets]


def test_a_target_that_speaks_the_clients_api_keeps_its_plain_cluster() -> None:
    assert ways("sonnet")[Surface.MESSAGES] == ["claude"]
    assert ways("four")[Surface.CHAT] == ["gpt"]
    assert ways("four")[Surface.OTHER] == ["gpt"]


def test_other_dialects_get_lanes_that_translate() -> None:
    assert ways("sonnet")[Surface.CHAT] == ["claude~translated"]
    assert ways("four")[Surface.MESSAGES] == ["gpt~translated"]
    assert ways("pro")[Surface.CHAT] == ways("pro")[Surface.MESSAGES] == ways("pro")[Surface.EMBEDDINGS]


def test_endpoints_go_to_the_targets_that_serve_them() -> None:
    assert ways("all") == {
        Surface.CHAT: ["claude~translated", "gpt~2", "gem~translated"],
        Surface.EMBEDDINGS: ["gpt~2", "gem~translated"],
        Surface.MESSAGES: ["claude~2", "gpt~translated", "gem~translated"],
        Surface.COUNT_TOKENS: ["claude"],
        Surface.OTHER: ["gpt"],
    }
    assert ways("sonnet")[Surface.EMBEDDINGS] is None
    assert ways("four")[Surface.COUNT_TOKENS] is None


def test_a_policy_of_openai_compatible_providers_needs_no_service() -> None:
    made = compiled(
        "version: 1\nproviders: {gpt: {kind: openai}, fake: {kind: mock}}\nmodels: {m: gpt, f: fake}\n"
    ).plan
    assert (made.workers, made.messages, [route.ways for route in made.routes]) == (0, False, [(), ()])


def test_workers_run_where_something_is_translated() -> None:
    assert (MADE.workers, MADE.messages) == (2, True)
    only = "version: 1\ngateway: {messages: true}\nproviders: {g: {kind: openai}}\nmodels: {m: g}\n"
    assert compiled(only).plan.workers == 2


def test_explain_tells_tier_and_price() -> None:
    told = {(found.path[1], found.rule): found for found in explain.decisions(MADE) if found.path[0] == "models"}
    found = told["sonnet", "translate OpenAI's chats for claude"]
    assert found.tier is Tier.INLINE
    assert f"about {WHOLE_US} us" in found.why
    assert told["sonnet", "refuse OpenAI's embeddings, OpenAI's other endpoints"].tier is Tier.NATIVE
    assert ("four", "translate Anthropic's messages for gpt") in told


def test_explain_tells_what_of_a_request_is_translated() -> None:
    assert request_explained.request(MADE, "sonnet", None).translated == ("OpenAI's chats for claude",)
    only = "version: 1\nproviders: {g: {kind: openai}}\nmodels: {m: g}\n"
    assert request_explained.request(compiled(only).plan, "m", None).translated == ()
