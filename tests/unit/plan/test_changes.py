"""What an edit changes: in the words of the policy, for Envoy, and for traffic. And that none of it shows a secret."""

import json

import pytest

from controlplane.plan import diff as policy_diff
from controlplane.policy.place import path_text
from controlplane.xds import diff as xds_diff
from controlplane.xds.diff import Effect
from controlplane.xds.link import static_bootstrap
from controlplane.xds.redact import dump
from controlplane.xds.resource import EMPTY
from tests.unit.plan.compiled import compiled

COOL = "  - {name: cool, do: [{set: {temperature: 0}}, {redact: [email]}], on_error: deny}\n"
MIDDLE = "  - {when: {model: plain}, do: [{flag: [email]}]}\n"
LAST = "  - {name: last, do: [{block: [secret]}]}\n"
TEXT = (
    """\
version: 1
gateway:
  admin: {listen: 127.0.0.1:9800, token: {env: ADMIN}}
  tls: {cert: {file: server.pem}, key: {file: server.key}}
providers:
  one: {kind: openai, api_key: {env: ONE}, tls: {cert: {file: cert.pem}, key: {file: cert.key}}}
  two: {kind: openai, base_url: "http://10.0.0.2:8000/v1", api_key: {file: two.txt}}
models:
  smart: {try: [{provider: one, model: big}, {provider: two, model: small}]}
  plain: two
keys:
  alice: {secret: {env: ALICE}, models: [smart], limits: [standard]}
  bob: {secret: {file: bob.txt}}
limits:
  standard: {requests: 600/m}
rules:
"""
    + f"{COOL}{MIDDLE}{LAST}"
)


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("600/m", "700/m", [("change", "limits.standard.requests")]),
        ("  plain: two\n", "", [("remove", "models.plain")]),
        ("  plain: two\n", "  plain: two\n  more: two\n", [("add", "models.more")]),
        ("[smart]", "[smart, plain]", [("change", "keys.alice.models")]),
        ("  tls: {cert: {file: server.pem}, key: {file: server.key}}\n", "", [("remove", "gateway.tls")]),
        ("{kind: openai, base_url", "{balance: random, kind: openai, base_url", [("add", "providers.two.balance")]),
        ("version", "# a comment\nversion", []),
        ("temperature: 0", "temperature: 1", [("change", "rules.cool.do[0].set")]),
        ("set: {temperature: 0}", "remove: [temperature]", [("change", "rules.cool.do")]),
        ("when: {model: plain}", "when: {model: smart}", [("change", "rules.rule-2.when")]),
        (", on_error: deny", "", [("remove", "rules.cool.on_error")]),
        ("  - {name: cool", "  - {name: new, do: [{flag: [iban]}]}\n  - {name: cool", [("add", "rules.new")]),
        ("name: last", "name: end", [("add", "rules.end"), ("remove", "rules.last")]),
        (LAST, "", [("remove", "rules.last")]),
        (f"{COOL}{MIDDLE}{LAST}", f"{LAST}{MIDDLE}{COOL}", [("change", "rules")]),
    ],
)
def test_in_the_words_of_the_policy(old: str, new: str, changed: list[tuple[str, str]]) -> None:
    before, after = compiled(TEXT), compiled(TEXT.replace(old, new))
    found = policy_diff.diff(before.policy.written, after.policy.written)
    assert [(change.action, path_text(change.path)) for change in found] == changed


@pytest.mark.parametrize(
    ("old", "new", "resources", "effect"),
    [
        ("{file: bob.txt}", "{env: BOB}", {"extension keys"}, Effect.NEW_REQUESTS),
        ("600/m", "700/m", {"extension limit/standard"}, Effect.NEW_REQUESTS),
        ("models: [smart]", "models: [plain]", {"extension permissions", "routes models"}, Effect.NEW_REQUESTS),
        ("  plain: two\n", "  plain: two\n  more: two\n", {"extension facts", "routes models"}, Effect.NEW_REQUESTS),
        ("gateway:\n", "gateway:\n  max_body: 1MiB\n", {"listener edge", "routes models"}, Effect.DRAINS_CLIENTS),
        ("kind: openai, base_url", "connect_timeout: 1s, kind: openai, base_url",
         {"cluster two", "cluster two~2", "endpoints two", "endpoints two~2"}, Effect.DRAINS_PROVIDER),
        ("{env: ONE}", "{env: ANOTHER}", {"secret provider/one/api-key"}, Effect.NEW_REQUESTS),
        ("version", "# a comment\nversion", set(), Effect.NONE),
    ],
)  # fmt: skip
def test_for_envoy_and_traffic(old: str, new: str, resources: set[str], effect: Effect) -> None:
    changes = xds_diff.diff(compiled(TEXT).snapshot, compiled(TEXT.replace(old, new)).snapshot)
    assert {f"{change.kind} {change.name}" for change in changes} == resources
    assert xds_diff.worst(changes) == effect


def test_a_new_provider_touches_no_connection() -> None:
    after = compiled(TEXT.replace("models:\n", "  three: {kind: mock}\nmodels:\n", 1))
    assert xds_diff.worst(xds_diff.diff(compiled(TEXT).snapshot, after.snapshot)) in (Effect.NONE, Effect.NEW_REQUESTS)


def test_everything_is_new_to_an_empty_envoy() -> None:
    made = compiled(TEXT)
    assert {change.action for change in xds_diff.diff(EMPTY, made.snapshot)} == {"add"}
    assert {change.action for change in xds_diff.diff(made.snapshot, EMPTY)} == {"remove"}


def test_no_secret_in_what_is_shown() -> None:
    made = compiled(TEXT)
    inside = static_bootstrap(made.snapshot).SerializeToString(deterministic=True)
    assert b"value-of-ONE" in inside, "the test looks for something that is not there"
    shown = json.dumps(dump(made.snapshot)) + repr(made) + json.dumps(made.policy.written)
    assert "value-of-" not in shown


def test_the_same_policy_gives_the_same_bytes_in_any_order_of_names() -> None:
    lines = TEXT.splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if line.startswith("  one:"))
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    first, second, turned = compiled(TEXT).snapshot, compiled(TEXT).snapshot, compiled("".join(lines)).snapshot
    assert first.version == second.version == turned.version
