"""A cache makes a check faster and changes nothing: after any edits the result is that of a check from scratch."""

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.policy.check import Checked, check
from controlplane.policy.document import Path
from controlplane.policy.load import LoadCache

BASE = """\
# a policy with a bit of everything
version: 1
gateway:
  listen: 127.0.0.1:8080
  cors: {origins: ["https://app.example.com"]}

providers:
  fake: {kind: mock}
  # a farm
  farm:
    kind: openai
    base_url: http://10.0.0.7:8000/v1
    endpoints:
    - 10.0.0.7:8000
    - 10.0.0.8:8000
    headers: {x-team: "a: b"}
  openai: {kind: openai, api_key: {env: OPENAI}}
models:
  gpt-4o: openai
  "llama-*": farm
  smart:
    try:
      - [{provider: openai, model: gpt-4o}, farm]
      - fake
  default: smart # an alias
keys:
  alice: {secret: {env: ALICE}, models: [smart, "llama-*"], limits: [standard]}
  bob:
    secret: {env: BOB}
limits:
  standard: {requests: 600/m}
  burst:
    requests: 10/s
"""
LINES = BASE.split("\n")
ODD = [
    "", "#", "  # note", "  ", "\t", "---", "...", "%YAML 1.2", "- item", "  - item", "&a", "  a: &x 1", "  b: *x",
    "  <<: {kind: mock}", "  text: |", "    more", '  "open', "  [", "  {", "  }", "? a", ": b", "{a: b}", "models:",
    "models: {a: fake}", "keys:", "  fake: {kind: mock}", "  gpt-4o: openai", "  alice: {secret: {env: ALICE}}",
    "  typo: {kid: mock}", "  x: null", "  y:", "  1: fake", "   three: spaces", " one: space", "  dup: fake",
    "  dup: openai", "extra: 1", "version: 1", "    requests: 5/m", "    try: [fake]", "\ufeff", "  nel: a\x85b: c",
    "  sep: a\u2028  b: c", "\r", "  !!str tagged: fake", "  t: !x fake", "--- {a: b}", "  'quoted': fake",
]  # fmt: skip
TEXTS = st.one_of(st.sampled_from(LINES), st.sampled_from(ODD))
PLACES = st.integers(0, len(LINES) + 5)
EDITS = st.one_of(
    st.tuples(st.just("insert"), PLACES, TEXTS),
    st.tuples(st.just("delete"), PLACES, st.just("")),
    st.tuples(st.just("replace"), PLACES, TEXTS),
    st.tuples(st.just("join"), PLACES, st.just("")),
    st.tuples(st.just("reset"), st.just(0), st.just("")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(EDITS, min_size=1, max_size=8))
def test_a_cached_check_equals_a_check_from_scratch(edits: list[tuple[str, int, str]]) -> None:
    cache, lines = LoadCache(), list(LINES)
    _same(lines, cache)
    for edit in edits:
        lines = _edited(lines, *edit)
        _same(lines, cache)


def test_one_line_in_two_sections_means_two_things() -> None:
    line = "  fake: {kind: mock}\n"
    text = f"version: 1\nproviders:\n{line}models:\n  a: fake\n"
    cache = LoadCache()
    assert check(text, "f", cache).policy
    for _ in range(2):
        _same((text + line).split("\n"), cache)


def test_an_unchanged_entry_is_the_same_object() -> None:
    cache = LoadCache()
    first = check(BASE, "f", cache).policy
    second = check(BASE.replace("600/m", "700/m"), "f", cache).policy
    assert first is not None
    assert second is not None
    assert second.keys["alice"] is first.keys["alice"]
    assert second.limits["standard"] != first.limits["standard"]


def test_places_move_with_the_lines_before_them() -> None:
    cache = LoadCache()
    check(BASE, "f", cache)
    moved = check("\n\n" + BASE, "f", cache)
    assert moved.places(("keys", "alice", "limits", 0)).line == LINES.index(next(x for x in LINES if "alice" in x)) + 3


def _edited(lines: list[str], kind: str, at: int, text: str) -> list[str]:
    if kind == "reset":
        return list(LINES)
    at = min(at, len(lines))
    if kind == "insert":
        return [*lines[:at], text, *lines[at:]]
    if kind == "join":
        return [*lines[:at], " ".join(lines[at : at + 2]), *lines[at + 2 :]]
    return [*lines[:at], *([text] if kind == "replace" else []), *lines[at + 1 :]]


def _same(lines: list[str], cache: LoadCache) -> None:
    text = "\n".join(lines)
    cached, fresh = check(text, "f", cache), check(text, "f")
    assert cached.diagnostics == fresh.diagnostics
    assert cached.policy == fresh.policy
    if fresh.policy is not None:
        assert list(cached.policy.models) == list(fresh.policy.models) if cached.policy else False
        _same_places(cached, fresh)


def _same_places(cached: Checked, fresh: Checked) -> None:
    for path in _paths(fresh.policy.written if fresh.policy else {}, ()):
        assert cached.places(path) == fresh.places(path), path


def _paths(value: object, path: Path) -> list[Path]:
    steps: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        steps = list(value.items())
    elif isinstance(value, list):
        steps = list(enumerate(value))
    return [path, *(found for step, of in steps for found in _paths(of, (*path, step)))]
