"""Values at the edge of what Envoy, HTTP and clocks can take, and several errors in one entry."""

from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane.policy.check import check
from controlplane.policy.language import Policy
from controlplane.policy.place import path_text
from controlplane.policy.providers import OpenAIProvider


def text(*, gateway: str = "{}", provider: str = "{kind: openai}", model: str = "p", key: str = "") -> str:
    return (
        f"version: 1\ngateway: {gateway}\nproviders:\n  p: {provider}\nmodels:\n  m: {model}\n"
        f"keys:\n  k: {{secret: {{env: K}}{key}}}\nlimits: {{l: {{requests: 1/s}}}}\n"
    )


def errors(**parts: str) -> list[tuple[str, str]]:
    return [(each.code, path_text(each.place.path)) for each in check(text(**parts), "f").diagnostics if each.place]


def accepted(**parts: str) -> Policy:
    found = check(text(**parts), "f")
    assert found.policy is not None, found.diagnostics
    assert found.diagnostics == ()
    return found.policy


@pytest.mark.parametrize(
    ("parts", "code", "path"),
    [
        ({"gateway": "{max_body: 0}"}, "invalid-value", "gateway.max_body"),
        ({"gateway": "{max_body: 4GiB}"}, "invalid-value", "gateway.max_body"),
        ({"gateway": "{drain: 366d}"}, "invalid-value", "gateway.drain"),
        ({"gateway": "{workers: true}"}, "wrong-type", "gateway.workers"),
        ({"gateway": "{admin: '0.0.0.0:8080'}"}, "admin-without-token", "gateway.admin"),
        ({"gateway": "{listen: '0.0.0.0:9800'}"}, "same-address", "gateway.admin"),
        ({"gateway": "{cors: {origins: ['https://a/']}}"}, "invalid-value", "gateway.cors.origins[0]"),
        ({"gateway": "{cors: {origins: ['*'], headers: ['a b']}}"}, "invalid-value", "gateway.cors.headers[0]"),
        ({"gateway": "{cors: {origins: []}}"}, "out-of-range", "gateway.cors.origins"),
        ({"provider": "{kind: openai, connect_timeout: 0s}"}, "invalid-value", "providers.p.connect_timeout"),
        ({"provider": "{kind: openai, max_requests: 4294967296}"}, "out-of-range", "providers.p.max_requests"),
        ({"provider": "{kind: openai, headers: {Host: a}}"}, "invalid-value", "providers.p.headers.Host"),
        ({"provider": "{kind: openai, headers: {X-Envoy-A: a}}"}, "invalid-value", "providers.p.headers.X-Envoy-A"),
        ({"provider": "{kind: openai, headers: {x-a: a, X-A: b}}"}, "duplicate-item", "providers.p.headers"),
        ({"provider": "{kind: openai, endpoints: ['a:1', 'a:1']}"}, "duplicate-item", "providers.p.endpoints[1]"),
        ({"provider": "{kind: openai, ejection: on}"}, "unknown-value", "providers.p.ejection"),
        ({"provider": "{kind: openai, api_key: {env: sk-abc}}"}, "invalid-secret", "providers.p.api_key"),
        ({"provider": "{kind: openai, api_key: {env: }}"}, "empty-value", "providers.p.api_key.env"),
        ({"model": "{provider: p, timeouts: {first_byte: 0s}}"}, "invalid-value", "models.m.timeouts.first_byte"),
        ({"model": "{provider: p, model: 'a*'}"}, "invalid-value", "models.m.model"),
        ({"model": "{provider: p, on: [true]}"}, "invalid-value", "models.m.on[0]"),
        ({"key": ", limits: [l, l]"}, "duplicate-item", "keys.k.limits[1]"),
        ({"key": ", expires: 2027-02-30"}, "invalid-value", "keys.k.expires"),
        ({"key": ", expires: 2027-W01-1"}, "invalid-value", "keys.k.expires"),
        ({"key": ", expires: 20270101"}, "invalid-value", "keys.k.expires"),
    ],
)  # fmt: skip
def test_refused(parts: dict[str, str], code: str, path: str) -> None:
    assert (code, path) in errors(**parts)


def test_accepted_at_the_edge() -> None:
    found = accepted(
        gateway="{max_body: 4294967295, drain: 0s, listen: '[::1]:1', "
        "admin: {listen: '0.0.0.0:65535', token: {env: T}}, "
        "cors: {origins: ['chrome-extension://abc', 'http://[::1]:3000'], max_age: 0s}}",
        provider="{kind: openai, base_url: 'http://[::1]:8000', headers: {X-Team: 'a: b'}, ejection: off}",
        model="{provider: p, on: [400, 599, 5xx], retries: 0, timeouts: {first_byte: 1ms, idle: 365d}}",
        key=", expires: 2027-01-01T00:00:00.5+02:00, models: []",
    )
    provider: Any = found.providers["p"]
    assert isinstance(provider, OpenAIProvider)
    assert provider.headers == {"x-team": "a: b"}
    assert provider.ejection == "off"
    assert found.keys["k"].models == []
    assert found.keys["k"].expires == datetime(2026, 12, 31, 22, 0, 0, 500_000, tzinfo=UTC)


@pytest.mark.parametrize("version", ["'1'", "true", "1.0", "0", "2"])
def test_one_version_is_known(version: str) -> None:
    found = check(text().replace("version: 1", f"version: {version}"), "f")
    assert [path_text(each.place.path) for each in found.diagnostics if each.place] == ["version"]


def test_an_error_hides_no_other_of_its_entry() -> None:
    assert errors(provider="{kind: openai, api_key: , balance: best, max_requests: 0, colour: red}") == [
        ("empty-value", "providers.p.api_key"),
        ("unknown-value", "providers.p.balance"),
        ("out-of-range", "providers.p.max_requests"),
        ("unknown-field", "providers.p.colour"),
    ]


def test_a_name_that_stands_twice_hides_no_other_error() -> None:
    twice = text(model="none") + "limits: {}\n"
    assert [each.code for each in check(twice, "f").diagnostics] == ["unknown-name", "duplicate-key"]
