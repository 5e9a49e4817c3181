"""Which requests are translated, for whom, and what that costs: its part of `ctl explain`."""

from collections.abc import Iterator

from controlplane.plan.dialects import Surface
from controlplane.plan.ir import Decision, Plan, Route, Tier, Way
from controlplane.plan.rules_explained import FIRST_US, FURTHER_US, PART_US

# CPU in microseconds: two messages to the service, and what is done there (docs/translation.md). A request of some
# turns and tools, and a part of a stream.
WHOLE_US, STREAMED_US = FIRST_US + FURTHER_US + 100, PART_US + 15

_SPOKEN = {
    Surface.CHAT: "OpenAI's chats",
    Surface.EMBEDDINGS: "OpenAI's embeddings",
    Surface.MESSAGES: "Anthropic's messages",
    Surface.COUNT_TOKENS: "Anthropic's count_tokens",
    Surface.OTHER: "OpenAI's other endpoints",
}


def decisions(plan: Plan) -> Iterator[Decision]:
    """For each model, in the order of the policy, what is translated, and which endpoints nobody serves."""
    for route in plan.routes:
        path = ("models", route.name)
        what = "; ".join(translated(route, plan.messages))
        if what:
            mechanism = "ext_proc in the provider's lane, for each attempt, from the original body"
            price = f"about {WHOLE_US} us of CPU for a request, {STREAMED_US} for a part of a stream"
            why = f"{price}; other requests do not pay, requests fail without it; Envoy's own translation would differ"
            yield Decision(path, f"translate {what}", Tier.INLINE, mechanism, why)
        refused = [_SPOKEN[surface] for way in route.ways if way.route is None for surface in way.surfaces]
        if refused:
            rule = f"refuse {', '.join(refused)}"
            why = "400 unsupported_endpoint: none of its targets has them"
            yield Decision(path, rule, Tier.NATIVE, "direct response, found by the path", why)


def translated(route: Route, messages: bool) -> Iterator[str]:
    """Which requests for a model are translated, and for which of its providers."""
    named = {surface for way in route.ways for surface in way.surfaces}
    everything = (Surface.CHAT, Surface.EMBEDDINGS, *((Surface.MESSAGES,) if messages else ()))
    rest = Way(tuple(surface for surface in everything if surface not in named), route)
    for way in (rest, *route.ways):
        providers = dict.fromkeys(target.provider for target in (way.route or route).targets if target.translated)
        surfaces = [_SPOKEN[surface] for surface in way.surfaces if surface in everything]
        if way.route is not None and providers and surfaces:
            yield f"{' and '.join(surfaces)} for {', '.join(providers)}"
