"""The pipeline: the rules of a chain as they meet one exchange, in the policy's order, and back in reverse. Pure.

A stage that fails by itself fails its rule: a closed rule refuses the request, any other is passed over.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import structlog

from extproc.server import conditions
from extproc.server.kinds import Built
from extproc.server.settings import When
from extproc.stages.choice import modalities
from extproc.stages.protocol import (
    Access,
    Endpoint,
    Holding,
    Needs,
    Outcome,
    Question,
    Refusal,
    Reply,
    Request,
    Stream,
    opened,
)  # fmt: skip

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with its stages built."""

    name: str
    stages: tuple[Built, ...]
    when: When
    closed: bool

    @property
    def reads(self) -> bool:
        """Whether it looks at the request's body."""
        return bool(self.when.modality) or any(built.needs.request for built in self.stages)

    def concerns(self, request: Request) -> bool:
        """Whether it is for a request, as far as that shows without its body."""
        when = self.when
        if (when.keys and request.key not in when.keys) or (when.teams and request.team not in when.teams):
            return False
        return not when.headers or conditions.headers_match(when.headers, request.headers)

    def applies(self, request: Request) -> bool:
        modality = self.when.modality
        return self.concerns(request) and (not modality or not modalities(request).isdisjoint(modality))


class Chain:
    """The rules that requests of a route go through. `needs` is what Envoy shows of an exchange.

    `chooses`: they may choose another model; then Envoy sends a request's headers before its body, to have them
    changed. `names`: what providers call models that may be chosen.
    """

    def __init__(self, rules: tuple[Rule, ...], names: Mapping[str, str] = MappingProxyType({})) -> None:
        self.rules = rules
        self.names = names
        self.chooses = any(built.chooses for rule in rules for built in rule.stages)
        self.needs = needs_of(rules)

    def enter(self, request: Request) -> "Passage":
        return Passage(self.rules, request)


def needs_of(rules: tuple[Rule, ...]) -> Needs:
    """What the rules need together."""
    needs = Needs()
    for rule in rules:
        # What the request holds can only be seen in its body; whose it is and what its headers say is told with that.
        when = rule.when
        judged = when.modality or when.headers or when.keys or when.teams
        needs = needs | Needs(Access.READ if judged else Access.NONE, headers=frozenset(when.headers))
        for built in rule.stages:
            needs = needs | built.needs
            if built.asked:
                needs = needs | Needs(request=Access.READ)
    return replace(needs, closed=any(rule.closed for rule in rules))


@dataclass(slots=True)
class Asked:
    """What becomes of a request. `body`: None for the one that came. `metadata`: by rule, to log.

    `by`: the rule that refused or answered it.
    """

    body: bytes | None = None
    refusal: Refusal | None = None
    reply: Reply | None = None
    model: str | None = None
    by: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    answer_headers: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


class Answered(NamedTuple):
    """What becomes of an answer. `body`: None for the one that came."""

    body: bytes | None
    refusal: Refusal | None
    metadata: dict[str, Any]
    by: str = ""


class _Ran(NamedTuple):
    """A stage that takes part in this exchange, and what it left for the answer."""

    rule: Rule
    built: Built
    state: object


class Asking(NamedTuple):
    """What a rule has to be told before a request goes on."""

    rule: str
    question: Question


class Passage:
    """One exchange on its way through a chain. `failed`: names of rules that were passed over."""

    __slots__ = ("_ran", "_rules", "failed", "request")

    def __init__(self, rules: tuple[Rule, ...], request: Request) -> None:
        self._rules = rules
        self.request = request
        self._ran: list[_Ran] = []
        self.failed: list[str] = []

    def ask(self) -> Generator[Asking, object, Asked]:
        """Once, with the request's body. Send it the answer to each question; None where nobody can tell."""
        refusal = opened(self.request)
        if refusal is not None:
            return Asked(refusal=refusal)
        return (yield from self._ask([rule for rule in self._rules if rule.applies(self.request)]))

    def unseen(self) -> Generator[Asking, object, Asked]:
        """In place of `ask`, where the body is none that stages can read. A rule that must read it refuses it."""
        concerned = [rule for rule in self._rules if rule.concerns(self.request)]
        closed = next((rule for rule in concerned if rule.closed and rule.reads), None)
        if closed is None:
            return (yield from self._ask([rule for rule in concerned if not rule.reads]))
        text = f"The rule `{closed.name}` cannot be applied to this body: send JSON."
        return Asked(refusal=Refusal(400, "rule_not_applicable", text), by=closed.name)

    def _ask(self, rules: list[Rule]) -> Generator[Asking, object, Asked]:
        asked = Asked()
        for rule in rules:
            for built in rule.stages:
                outcome = yield from self._asked(rule, built, partial(built.stage.request, self.request))
                if outcome is None:
                    break
                self._take(asked, rule, outcome)
                if asked.refusal or asked.reply:
                    asked.by = rule.name
                    yield from self._return(asked)
                    return asked
                self._ran.append(_Ran(rule, built, outcome.state))
        return asked

    def skip(self) -> None:
        """In place of `ask`, where no rule needs the request's body."""
        for rule in self._rules:
            if rule.applies(self.request):
                self._ran += [_Ran(rule, built, None) for built in rule.stages]

    def answer(self, body: bytes) -> Generator[Asking, object, Answered]:
        """With the body of a successful answer that is not a stream. Send it the answers, as to `ask`."""
        changed: bytes | None = None
        metadata: dict[str, Any] = {}
        for rule, built, state in reversed(self._ran):
            if not built.needs.answer:
                continue
            now = body if changed is None else changed
            outcome = yield from self._asked(rule, built, partial(built.stage.answer, self.request, state, now))
            if outcome is None:
                continue
            _note(metadata, rule, outcome.metadata)
            if outcome.refusal is not None:
                return Answered(None, outcome.refusal, metadata, rule.name)
            changed = outcome.body if outcome.body is not None else changed
        return Answered(changed, None, metadata)

    def stream(self) -> "Flow | None":
        """When a streamed answer begins. None: no stage has anything to do with it."""
        parts = []
        for rule, built, state in reversed(self._ran):
            if built.needs.stream:
                stream = built.stage.stream(self.request, state)
                if stream is not None:
                    parts.append(_Part(rule, stream))
        return Flow(parts, self.request.endpoint) if parts else None

    @property
    def waits(self) -> bool:
        """Whether a stage that took part wants to see the answer."""
        return any(built.needs.answer or built.needs.stream for _, built, _ in self._ran)

    @property
    def watched(self) -> bool:
        """Whether a rule that must hold wants to see the answer."""
        return any(rule.closed and (built.needs.answer or built.needs.stream) for rule, built, _ in self._ran)

    def _asked(
        self, rule: Rule, built: Built, call: Callable[[], Outcome]
    ) -> Generator[Asking, object, Outcome | None]:
        """What a stage does, once its questions are answered. None: the rule is passed over."""
        outcome = self._tried(rule, call)
        while outcome is not None and outcome.question is not None:
            told = yield Asking(rule.name, outcome.question)
            outcome = self._tried(rule, partial(built.stage.told, self.request, outcome.state, told))
        return outcome

    def _return(self, asked: Asked) -> Generator[Asking, object, None]:
        """What a stage answers passes the stages before it, as a provider's answer would."""
        reply = asked.reply
        if reply is None:
            return
        if not reply.content_type.startswith("text/event-stream"):
            answered = yield from self.answer(reply.body)
            _join(asked.metadata, answered.metadata)
            asked.refusal = answered.refusal
            asked.reply = None if answered.refusal else replace(reply, body=answered.body or reply.body)
            asked.by = answered.by or asked.by
        elif (flow := self.stream()) is not None:
            begun = yield from flow.feed(reply.body)
            asked.reply = replace(reply, body=begun + (yield from flow.end()))
            _join(asked.metadata, flow.metadata())
            self.failed += flow.failed

    def _take(self, asked: Asked, rule: Rule, outcome: Outcome) -> None:
        _note(asked.metadata, rule, outcome.metadata)
        asked.refusal, asked.reply = outcome.refusal, outcome.reply
        if outcome.body is not None:
            asked.body = outcome.body
            self.request = self.request.changed(outcome.body)
        asked.model = outcome.model or asked.model
        asked.headers.update(outcome.headers)
        asked.answer_headers.update(outcome.answer_headers)

    def _tried(self, rule: Rule, call: Callable[[], Outcome]) -> Outcome | None:
        """None: the rule is passed over."""
        try:
            return call()
        except Exception as error:
            _failed(rule, error, self.failed)
            return Outcome(refusal=_broken(rule)) if rule.closed else None


class _Part(NamedTuple):
    rule: Rule
    stream: Stream | Holding


class Flow:
    """A streamed answer on its way back: what one stage lets out is what the next one gets."""

    __slots__ = ("_broken", "_ended", "_endpoint", "_parts", "closed", "failed")

    def __init__(self, parts: list[_Part], endpoint: Endpoint) -> None:
        self._parts = parts
        self._endpoint = endpoint
        self.failed: list[str] = []
        self._broken: set[int] = set()
        self._ended = False
        self.closed = False

    def feed(self, data: bytes) -> Generator[Asking, object, bytes]:
        """What goes out. Send it the answers, as to `Passage.ask`."""
        return self._through(data, ends=False)

    def end(self) -> Generator[Asking, object, bytes]:
        """More than once gives nothing more."""
        return self._through(b"", ends=True)

    def metadata(self) -> dict[str, Any]:
        """By rule; whole after the end."""
        found: dict[str, Any] = {}
        for rule, stream in self._parts:
            _note(found, rule, stream.metadata)
        return found

    def _through(self, data: bytes, *, ends: bool) -> Generator[Asking, object, bytes]:
        if self.closed or self._ended:
            return b""
        for number, (rule, stream) in enumerate(self._parts):
            if number in self._broken:
                continue
            try:
                out = stream.feed(data) if data else b""
                if ends or stream.closed:
                    out += stream.end()
                    if isinstance(stream, Holding) and stream.held():
                        question = stream.judge()
                        out = stream.held() if question is None else stream.told((yield Asking(rule.name, question)))
            except Exception as error:
                _failed(rule, error, self.failed)
                if rule.closed:
                    self.closed = True
                    return _broken(rule).event(self._endpoint)
                self._broken.add(number)
                data = stream.held() if isinstance(stream, Holding) else data
                continue
            if stream.closed:  # the stages after it get what it said last
                ends = self.closed = True
            data = out
        self._ended = self._ended or ends
        return data


def _join(metadata: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, said in more.items():
        metadata.setdefault(name, {}).update(said)


def _note(metadata: dict[str, Any], rule: Rule, said: Mapping[str, Any]) -> None:
    if said:
        metadata.setdefault(rule.name, {}).update(said)


def _broken(rule: Rule) -> Refusal:
    return Refusal(500, "rule_failed", f"The rule `{rule.name}` could not be applied.", type="server_error")


def _failed(rule: Rule, error: Exception, failed: list[str]) -> None:
    """The error's own words may hold what the client wrote, so only its kind and place are told."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    _log.error("a rule failed", rule=rule.name, error=type(error).__name__, where=where)
    failed.append(rule.name)
