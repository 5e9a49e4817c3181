"""What is wrong with a policy, and where: policy text -> code, line, column, path, suggestion."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.policy.check import check
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.load import LoadCache
from controlplane.policy.place import path_text
from controlplane.policy.render import render

GOOD = """\
version: 1
providers: {p: {kind: openai}, q: {kind: mock}}
models: {m: p}
keys: {k: {secret: {env: K}}}
"""


@dataclass(frozen=True)
class Case:
    """The `§` in a case's text marks where the diagnostic stands; it is taken out before the check."""

    name: str
    text: str | bytes
    code: str
    path: str = "$"
    suggestion: str | None = None


def provider(text: str) -> str:
    return f"version: 1\nproviders:\n  p: {text}\nmodels: {{m: p}}\nkeys: {{k: {{secret: {{env: K}}}}}}\n"


def model(text: str) -> str:
    rest = "  two: {try: [p, q]}\n  'w*': p\nkeys: {k: {secret: {env: K}}}\n"
    return f"version: 1\nproviders: {{p: {{kind: openai}}, q: {{kind: mock}}}}\nmodels:\n  m: {text}\n{rest}"


def key(text: str) -> str:
    rest = "limits: {standard: {requests: 1/s}}\n"
    return f"version: 1\nproviders: {{p: {{kind: openai}}}}\nmodels: {{m: p}}\nkeys:\n  k: {text}\n{rest}"


def gateway(text: str) -> str:
    return f"gateway: {text}\n{GOOD}"


AS_YAML = [
    Case("an empty file", "", "empty-policy"),
    Case("comments only", "# nothing\n\n", "empty-policy"),
    Case("a list", "§- a\n", "not-a-mapping"),
    Case("one word", "§hello\n", "not-a-mapping"),
    Case("a NUL", GOOD + "x: §\0\n", "invalid-yaml"),
    Case("another encoding", GOOD.encode() + b"x: \xff\n", "not-utf8"),
    Case("a tab", GOOD + "gateway:\n§\tlisten: a\n", "invalid-yaml"),
    Case("a second document", GOOD + "§---\n" + GOOD, "several-documents"),
    Case("an anchor", provider("§&a {kind: openai}"), "anchor", "providers.p"),
    Case("an alias", GOOD.replace("m: p", "m: §*a"), "anchor", "models.m"),
    Case("a merge key", provider("{§<<: {kind: openai}}"), "anchor", 'providers.p["<<"]'),
    Case("a star without quotes", GOOD.replace("m: p", "*§: p"), "invalid-yaml"),
    Case("a tag", provider("§!x {kind: openai}"), "tag", "providers.p"),
    Case("a list as a key", GOOD + "? §[a]\n: b\n", "complex-key"),
    Case("a name that stands twice", GOOD + "§models: {m: q}\n", "duplicate-key", "models"),
    Case("an entry that stands twice", provider("{kind: openai, §kind: mock}"), "duplicate-key", "providers.p.kind"),
    Case("too many brackets", GOOD + "x: " + "[" * 31 + "§" + "[" * 9 + "]" * 40, "too-deep", "x" + "[0]" * 31),
    Case("an open brace", GOOD + "x: {a\n§", "invalid-yaml"),
    Case("one colon too many", GOOD + "x: a§: b\n", "invalid-yaml"),
]
FIELDS = [
    Case("an unknown section", GOOD + "§limit: {}\n", "unknown-field", "limit", "limits"),
    Case(
        "an unknown field",
        provider("{kind: openai, §api_kye: {env: A}}"),
        "unknown-field",
        "providers.p.api_kye",
        "api_key",
    ),
    Case("in a target", model("{try: [{provider: p, §modle: x}]}"), "unknown-field", "models.m.try[0].modle", "model"),
    Case("a number for a model", model("§5"), "wrong-type", "models.m"),
    Case("a list for a model", model("§[p]"), "wrong-type", "models.m"),
    Case("of another form", model("{try: [p], §retries: 2}"), "unknown-field", "models.m.retries"),
    Case(
        "in ejection",
        provider("{kind: openai, ejection: {§aftr: 1}}"),
        "unknown-field",
        "providers.p.ejection.aftr",
        "after",
    ),
    Case("no version", GOOD.replace("version: 1\n", "\n"), "missing-field"),
    Case("no models", GOOD.replace("{m: p}", "§{}"), "missing-field", "models"),
    Case("no kind", provider("§{}"), "missing-field", "providers.p"),
    Case("no value", provider("{kind: openai, §api_key: }"), "empty-value", "providers.p.api_key"),
    Case("null", provider("{kind: openai, §api_key: null}"), "empty-value", "providers.p.api_key"),
    Case("a section without a value", "§gateway:\n" + GOOD, "empty-value", "gateway"),
    Case("a future version", GOOD.replace("1", "§2", 1), "unknown-value", "version"),
    Case("an unknown kind", provider("{kind: §opena}"), "unknown-value", "providers.p.kind", "openai"),
    Case(
        "an unknown word",
        provider("{kind: openai, balance: §round-robin}"),
        "unknown-value",
        "providers.p.balance",
        "round_robin",
    ),
    Case("text for a mapping", provider("§openai"), "wrong-type", "providers.p"),
    Case(
        "text for a number", provider("{kind: openai, max_requests: §many}"), "wrong-type", "providers.p.max_requests"
    ),
    Case("a list for a mapping", key("§[a]"), "wrong-type", "keys.k"),
    Case("zero", provider("{kind: openai, max_requests: §0}"), "out-of-range", "providers.p.max_requests"),
    Case(
        "a long text",
        provider(f"{{kind: onnx, models: {{m: {{path: m, labels: [§{'x' * 300}]}}}}}}"),
        "out-of-range",
        "providers.p.models.m.labels[0]",
    ),
    Case("no target", model("{try: §[]}"), "out-of-range", "models.m.try"),
    Case("a weight of zero", model("{try: [{provider: p, weight: §0}]}"), "out-of-range", "models.m.try[0].weight"),
    Case("a bad name", GOOD.replace("q:", "§-q:"), "invalid-name", "providers.-q"),
    Case("a bad URL", provider("{kind: openai, base_url: §'ftp://x'}"), "invalid-value", "providers.p.base_url"),
    Case(
        "a bad header value",
        provider('{kind: openai, headers: {x-a: §"a\\nb"}}'),
        "invalid-value",
        "providers.p.headers.x-a",
    ),
    Case("a bad rate", key("{secret: {env: K}}").replace("1/s", "§1/min"), "invalid-value", "limits.standard.requests"),
    Case("a bad date", key("{secret: {env: K}, expires: §tomorrow}"), "invalid-value", "keys.k.expires"),
    Case(
        "a time without a zone",
        key("{secret: {env: K}, expires: §2027-01-01T00:00:00}"),
        "invalid-value",
        "keys.k.expires",
    ),
    Case("a success that is retried", model("{provider: p, on: [§200]}"), "invalid-value", "models.m.on[0]"),
]
SECRETS = [
    Case("a literal", provider("{kind: openai, api_key: §sk-abc}"), "literal-secret", "providers.p.api_key"),
    Case("a literal key", key("{secret: §sk-abc}"), "literal-secret", "keys.k.secret"),
    Case("both", key("{secret: §{env: A, file: b}}"), "invalid-secret", "keys.k.secret"),
    Case("an empty name", key("{secret: §{env: ''}}"), "invalid-secret", "keys.k.secret"),
]
NAMES = [
    Case("no such provider or model", model("§pp"), "unknown-name", "models.m", "p"),
    Case("no such provider", model("{provider: §pp}"), "unknown-name", "models.m.provider", "p"),
    Case(
        "no such limit", key("{secret: {env: K}, limits: [§standrad]}"), "unknown-name", "keys.k.limits[0]", "standard"
    ),
    Case("nothing matches", key("{secret: {env: K}, models: [§n]}"), "matches-nothing", "keys.k.models[0]"),
    Case("a circle of one", model("§m"), "cycle", "models.m"),
    Case("a circle", model("§n\n  n: m"), "cycle", "models.m"),
    Case("a pattern", model("§w*"), "wildcard-reference", "models.m"),
    Case("a group inside a group", model("{try: [[§two, p]]}"), "nested-group", "models.m.try[0][0]"),
]
TOGETHER = [
    Case("an open admin API", gateway("{admin: §0.0.0.0:9800}"), "admin-without-token", "gateway.admin"),
    Case("a name to listen at", gateway("{listen: §'localhost:8080'}"), "invalid-value", "gateway.listen"),
    Case("one address for two", gateway("{admin: §127.0.0.1:8080}"), "same-address", "gateway.admin"),
    Case(
        "cookies from anywhere",
        gateway("{cors: {origins: ['*'], credentials: §true}}"),
        "cors-any-with-credentials",
        "gateway.cors.credentials",
    ),
    Case(
        "TLS without https",
        provider("{kind: openai, base_url: 'http://a', tls: §{server_name: a}}"),
        "tls-without-https",
        "providers.p.tls",
    ),
    Case(
        "half a certificate",
        provider("{kind: openai, tls: §{cert: {file: c}}}"),
        "half-a-certificate",
        "providers.p.tls",
    ),
    Case(
        "names and addresses",
        provider("{kind: openai, endpoints: §['1.2.3.4:1', 'a.b:1']}"),
        "mixed-endpoints",
        "providers.p.endpoints",
    ),
    Case(
        "a clock that is too short",
        model("{provider: p, timeouts: §{first_byte: 30s, idle: 10s}}"),
        "idle-too-short",
        "models.m.timeouts",
    ),
    Case("no keys", "§" + GOOD.replace("keys: {k: {secret: {env: K}}}\n", ""), "open-gateway"),
]
CASES = [*AS_YAML, *FIELDS, *SECRETS, *NAMES, *TOGETHER]


@pytest.mark.parametrize("cache", [None, LoadCache()], ids=["fresh", "cached"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_wrong_and_where(case: Case, cache: LoadCache | None) -> None:
    text, line, column = _marked(case.text)
    found = check(text, "policy.yaml", cache)
    assert [each.code for each in found.diagnostics] == [case.code]
    (told,) = found.diagnostics
    assert told.place is not None
    assert path_text(told.place.path) == case.path
    assert told.suggestion == case.suggestion
    if line:
        assert (told.place.line, told.place.column) == (line, column)
    assert told.expected or told.hint
    assert (found.policy is None) is (told.severity is Severity.ERROR)


def test_a_misspelt_try_is_recognized() -> None:
    told = check(model("{tyr: [p]}"), "f").diagnostics
    assert [each.suggestion for each in told] == [None, "try"]


def test_every_error_of_a_file_is_told_in_one_run_in_its_order() -> None:
    text = "\n".join(
        [
            "version: 2", "gateway: {max_body: lots}", "providers:", "  p: {kind: openai, api_key: sk-abc}", "  q: {}",
            "models:", "  a: b", "  b: a", "  c: {provider: r}", "keys:", "  k: {secret: {env: K}, limits: [none]}",
            "limits:", "  l: {requests: 1}", "more: 1",
        ]
    )  # fmt: skip
    told = check(text, "f").diagnostics
    assert [each.place.line for each in told if each.place] == [1, 2, 4, 5, 7, 9, 11, 13, 14]


def test_marks_that_editors_leave_change_nothing() -> None:
    for text in ("\ufeff" + GOOD, GOOD.replace("\n", "\r\n"), GOOD.encode(), b"\xef\xbb\xbf" + GOOD.encode()):
        assert check(text, "f").policy == check(GOOD, "f").policy


@pytest.mark.parametrize("text", [provider("{kind: openai, api_key: %s}"), key("{secret: %s}"), key("{secret: [%s]}")])
def test_a_literal_secret_is_never_echoed(text: str) -> None:
    told = check(text % "sk-very-secret", "f").diagnostics
    assert told
    shown = "".join(f"{each!r}{render(each, text % 'sk-very-secret')}" for each in told)
    assert "very" not in shown


@given(st.lists(st.sampled_from([*"\t\n -:#'\"[]{},&*!|>%@`~\0\x85\u2028é0a"]), max_size=60).map("".join))
def test_no_text_crashes_the_check(text: str) -> None:
    for given_text in (text, GOOD + text, GOOD.replace("m: p", text)):
        found = check(given_text, "f", LoadCache())
        for each in found.diagnostics:
            assert render(each, given_text)


@given(st.binary(max_size=40))
def test_no_bytes_crash_the_check(data: bytes) -> None:
    assert all(isinstance(each, Diagnostic) for each in check(GOOD.encode() + data, "f").diagnostics)


def test_the_names_of_cases_are_their_own() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def _marked(text: str | bytes) -> tuple[str | bytes, int, int]:
    """The text without its mark, and where that was: line and column, 0 without one."""
    if isinstance(text, bytes) or "§" not in text:
        return text, 0, 0
    before = text[: text.index("§")]
    return text.replace("§", ""), before.count("\n") + 1, len(before) - before.rfind("\n")
