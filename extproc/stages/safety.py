"""The stage `safety`: personal data, secrets, words and custom patterns are redacted, masked, flagged or refused.

{"rules": [{"find": ["email", "credit_card"], "action": "mask"}, {"words": ["project x"], "action": "block"}],
 "injection": {"action": "flag"}}
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import AfterValidator, ConfigDict

from extproc.json_splice import Document
from extproc.stages import paths
from extproc.stages.deltas import Blocked, Deltas, Rewriter
from extproc.stages.detectors import NAME, Detector, Kind, detector
from extproc.stages.escapes import Unescaping, in_json, unescaped
from extproc.stages.injection import Heuristics
from extproc.stages.masking import PLACEHOLDERS, Masks
from extproc.stages.matching import Matcher, Parts
from extproc.stages.protocol import NOTHING, Access, Needs, Outcome, Plain, Refusal, Request, Stream
from extproc.stages.regex import either, literal, pattern
from extproc.stages.removal import without
from extproc.stages.settings import STRICT
from extproc.stages.sse import data_of, with_data
from extproc.stages.texts import answer_texts, is_json, texts

Action = Literal["redact", "mask", "flag", "block"]
_TRUSTED = ("system", "developer", "assistant")
_LOGPROBS = re.compile(rb'"logprobs"\s*+:\s*+[^n\s]')
_LOGPROB_PATHS = tuple(
    paths.steps(path)
    for path in (
        "choices[*].logprobs", "logprobs", "part.logprobs", "item.content[*].logprobs",
        "response.output[*].content[*].logprobs",
    )
)  # fmt: skip


def _source(text: str) -> str:
    pattern(text)  # raises PatternError, which is a ValueError
    return text


@dataclass(frozen=True, slots=True)
class Rule:
    """What to find: known kinds, patterns by name, words (whole, in any case). What then: one action.

    `redact`: `[EMAIL]` in its place. `mask`: `[EMAIL_1]`, and the value again in the answer; for requests only.
    `flag`: logged. `block`: refused. `on`: where it looks.
    """

    find: tuple[Kind, ...] = ()
    patterns: Mapping[str, Annotated[str, AfterValidator(_source)]] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    name: str = "words"
    action: Action = "redact"
    on: Literal["request", "answer", "both"] = "both"
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not (self.find or self.patterns or self.words):
            raise ValueError("find, patterns or words are expected")
        for name in (*self.patterns, self.name):
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name: a-z, 0-9 and _ are expected, 40 at most")
        if any(not word.strip() or len(word) > 200 for word in self.words):
            raise ValueError("a word has 1 to 200 characters that show")
        if self.action == "mask" and self.on == "answer":
            raise ValueError("an answer is not masked: `redact` is for good")

    def detectors(self) -> Iterable[Detector]:
        yield from (detector(kind) for kind in self.find)
        yield from (Detector(name, pattern(source)) for name, source in self.patterns.items())
        if self.words:
            words = [literal(word.strip(), ignore_case=True, whole_words=True) for word in self.words]
            yield Detector(self.name, either(words))


@dataclass(frozen=True, slots=True)
class Injection:
    """Wording of prompt injections in what users and tools say. Signs weigh 0.5 to 1; `threshold` is their sum."""

    action: Literal["flag", "block"] = "flag"
    threshold: float = 1.0
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 10:
            raise ValueError(f"threshold is {self.threshold}: above 0, at most 10 is expected")


@dataclass(frozen=True, slots=True)
class Settings:
    """The first rule that names a kind decides about it."""

    rules: tuple[Rule, ...] = ()
    injection: Injection | None = None
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


class Safety(Plain):
    def __init__(self, settings: Settings) -> None:
        self._asked = _Side(settings.rules, "request")
        self._answered = _Side(settings.rules, "answer")
        self._masks = any(rule.action == "mask" for rule in settings.rules)
        self._injection = settings.injection
        self._heuristics = Heuristics() if settings.injection else None
        answer = Access.CHANGE if self._answered.matcher or self._masks else Access.NONE
        request = Access.CHANGE if self._asked.matcher or settings.injection else Access.NONE
        self.needs = Needs(request, answer, answer, closed=True)

    def request(self, request: Request) -> Outcome:
        masks = Masks(request.raw.decode("utf-8", "replace")) if self._masks else None
        found = _Found(self._asked.actions, masks)
        document = Document(request.raw)
        for path, text in texts(request.endpoint, request.body):
            try:
                clean = self._asked.clean(text, found, json=is_json(path) or "\\u" in text)
                self._judge(request, path, text, found)
            except Blocked as blocked:
                place = paths.written(path)
                refusal = Refusal(blocked.refusal.status, blocked.refusal.code, blocked.refusal.message, place)
                return Outcome(refusal=refusal, metadata=found.metadata())
            if clean != text:
                document.set(path, clean)
        if not found.counts:
            return NOTHING
        body = document.render() if document.changed else None
        return Outcome(body=body, metadata=found.metadata(), state=masks or None)

    def answer(self, request: Request, state: object, body: bytes) -> Outcome:
        found = _Found(self._answered.actions, None)
        masks = state if isinstance(state, Masks) else None
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            value = None
        try:
            if not isinstance(value, dict):  # an answer that is no JSON is a text all the same
                text = body.decode("utf-8", "replace")
                clean = _cleaned(self._answered, found, masks, text)
                return Outcome(body=None if clean == text else clean.encode(), metadata=found.metadata())
            document = Document(body)
            for path, text in answer_texts(value):
                clean = self._answered.clean(text, found, json=is_json(path))
                if clean != text:
                    _silence(document, path)
                clean = masks.unmasked(clean, json=is_json(path)) if masks else clean
                if clean != text:
                    document.set(path, clean)
        except Blocked as blocked:
            return Outcome(refusal=blocked.refusal, metadata=found.metadata())
        return Outcome(body=document.render() if document.changed else None, metadata=found.metadata())

    def stream(self, request: Request, state: object) -> Stream | None:
        if not self._answered.matcher and not state:
            return None
        return _Stream(request, self._answered, state if isinstance(state, Masks) else None)

    def _judge(self, request: Request, path: paths.Steps, text: str, found: "_Found") -> None:
        if not self._injection or not self._heuristics or _trusted(request.body, path):
            return
        score = self._heuristics.score(text)
        if score.value >= self._injection.threshold:
            for sign in score.signs:
                found.count(f"injection:{sign}")
            if self._injection.action == "block":
                raise Blocked(_refusal("prompt_injection", "looks like an attempt to override instructions"))


class _Side:
    """The rules of one direction as one matcher."""

    def __init__(self, rules: tuple[Rule, ...], on: str) -> None:
        self.actions: dict[str, Action] = {}
        detectors = []
        for rule in rules:
            if rule.on in (on, "both") and not (rule.action == "mask" and on == "answer"):
                for one in rule.detectors():
                    if one.name not in self.actions:
                        detectors.append(one)
                        self.actions[one.name] = rule.action
        self.matcher = Matcher(detectors) if detectors else None
        self.changes = any(action != "flag" for action in self.actions.values())

    def clean(self, text: str, found: "_Found", *, json: bool = False) -> str:
        """`json`: the text is JSON itself."""
        if self.matcher is None:
            return text
        plain = unescaped(text) if json else text
        clean = self.matcher.replaced(plain, in_json(found.put) if json else found.put)
        return text if clean == plain else clean


class _Found:
    """What was found in one direction of one exchange: counts by name, never the values."""

    def __init__(self, actions: Mapping[str, Action], masks: Masks | None) -> None:
        self._actions = actions
        self._masks = masks
        self.counts: dict[str, int] = {}

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def put(self, one: Detector, match: bytes) -> bytes:
        action = self._actions[one.name]
        self.count(one.name)
        if action == "block":
            raise Blocked(
                _refusal("content_policy_violation", f"holds something that is not allowed here ({one.name})")
            )
        if action == "flag":
            return match
        if action == "mask" and self._masks is not None:
            return self._masks.put(one, match)
        return b"[%b]" % one.name.upper().encode()

    def metadata(self) -> dict[str, Any]:
        return {"safety": dict(self.counts)} if self.counts else {}


class _Stream(Deltas):
    """Redacts what the model says, then unmasks what the client said."""

    def __init__(self, request: Request, side: _Side, masks: Masks | None) -> None:
        self._found = found = _Found(side.actions, None)
        self._silent = side.changes

        def rewriter(json: bool) -> _Chain:
            before = [Unescaping()] if json else []
            put = in_json(found.put) if json else found.put
            parts = [Parts(side.matcher, put)] if side.matcher else []
            back = [Parts(PLACEHOLDERS, in_json(masks.back) if json else masks.back)] if masks else []
            return _Chain([*before, *parts, *back])

        def whole(text: str, json: bool) -> str:
            return _cleaned(side, found, masks, text, json=json)

        super().__init__(request.endpoint, rewriter, whole)

    def event(self, event: bytes) -> bytes:
        """Log probabilities name the tokens of a text before it is known whether it holds what must not be read."""
        if self._silent and _LOGPROBS.search(event):
            data = data_of(event)
            less = without(data, _LOGPROB_PATHS) if data is not None else data
            event = event if less is data or less is None else with_data(event, less)
        return super().event(event)

    def end(self) -> bytes:
        out = super().end()
        self.note(**self._found.metadata())
        return out


class _Chain:
    """Parts behind one another."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Rewriter]) -> None:
        self._parts = parts

    @property
    def holds(self) -> bool:
        return any(part.holds for part in self._parts)

    def feed(self, text: str) -> str:
        for part in self._parts:
            text = part.feed(text)
        return text

    def end(self) -> str:
        text = ""
        for part in self._parts:
            text = part.feed(text) + part.end()
        return text


def _cleaned(side: _Side, found: _Found, masks: Masks | None, text: str, *, json: bool = False) -> str:
    """A text of an answer: redacted, then unmasked."""
    clean = side.clean(text, found, json=json)
    return masks.unmasked(clean, json=json) if masks else clean


def _silence(document: Document, path: paths.Steps) -> None:
    """Takes out log probabilities, which name the tokens of a text: beside it, or beside its message."""
    for holder in (path[:-1], path[:2]):
        if document.raw((*holder, "logprobs")) not in (None, b"null"):
            document.remove((*holder, "logprobs"))


def _trusted(body: dict[str, Any], path: paths.Steps) -> bool:
    """Whether the application wrote it, not its users and tools."""
    if path[0] in ("system", "instructions"):
        return True
    holder = body.get(str(path[0]))
    one = holder[path[1]] if isinstance(holder, list) and len(path) > 1 and isinstance(path[1], int) else None
    return isinstance(one, dict) and one.get("role") in _TRUSTED


def _refusal(code: str, what: str) -> Refusal:
    return Refusal(400, code, f"The text {what}.")
