"""Rules in the policy's order, back in reverse; and what becomes of an exchange when a stage itself fails."""

from dataclasses import dataclass

import pytest

from extproc.server.chain import Chain, Rule, needs_of
from extproc.server.kinds import Built
from extproc.server.settings import When
from extproc.stages.protocol import (
    Access,
    Endpoint,
    Holding,
    Needs,
    Outcome,
    Plain,
    Refusal,
    Reply,
    Request,
    Stream,
)  # fmt: skip
from tests.unit.server.steps import done

_ALL = Needs(Access.CHANGE, Access.CHANGE, Access.CHANGE)


class Marks(Plain):
    """Puts its name into whatever passes."""

    needs = _ALL

    def __init__(self, name: str) -> None:
        self.name = name

    def request(self, request: Request) -> Outcome:
        raw = request.raw[:-1] + b',"%s":1}' % self.name.encode()
        return Outcome(body=raw, metadata={"seen": self.name}, headers={"x-ask": self.name}, state=f"{self.name}'s")

    def answer(self, request: Request, state: object, body: bytes) -> Outcome:
        return Outcome(body=body + self.name.encode())

    def stream(self, request: Request, state: object) -> Stream | None:
        return Marking(self.name)


class Marking:
    def __init__(self, name: str) -> None:
        self.closed = False
        self.metadata = {"streamed": name}
        self._name = name.encode()
        self._ended = False

    def feed(self, data: bytes) -> bytes:
        return data + self._name

    def end(self) -> bytes:
        ended, self._ended = self._ended, True
        return b"" if ended else b"." + self._name


class Fails(Plain):
    needs = _ALL

    def request(self, request: Request) -> Outcome:
        raise RuntimeError("secret text of the client")

    def answer(self, request: Request, state: object, body: bytes) -> Outcome:
        raise RuntimeError("secret text of the provider")


class FailsLater(Marks):
    def answer(self, request: Request, state: object, body: bytes) -> Outcome:
        raise RuntimeError("secret text of the provider")

    def stream(self, request: Request, state: object) -> Stream | None:
        return Breaking("b")


class Breaking(Marking):
    def feed(self, data: bytes) -> bytes:
        raise RuntimeError("secret")


class Says(Plain):
    needs = Needs(Access.CHANGE)

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def request(self, request: Request) -> Outcome:
        return self._outcome


@dataclass(frozen=True)
class Wonders:
    what: str
    patience_s: float | None = None


class Judges(Plain):
    """Asks before it says anything, and holds a stream until then. An answer of None is an error."""

    needs = _ALL

    def request(self, request: Request) -> Outcome:
        return Outcome(question=Wonders("this"), state="asked")

    def told(self, request: Request, state: object, answer: object) -> Outcome:
        if answer is None:
            raise RuntimeError("nobody could tell")
        return Outcome(body=b'{"model":"%b"}' % answer if state == "asked" else answer, metadata={"told": 1})  # type: ignore[operator,arg-type]

    def answer(self, request: Request, state: object, body: bytes) -> Outcome:
        return Outcome(question=Wonders("this"), state="answered")

    def stream(self, request: Request, state: object) -> Holding:
        return Whole(8)


class Whole(Holding):
    def judge(self) -> Wonders | None:
        return None if self.held() == b"fine" else Wonders("all")

    def told(self, answer: object) -> bytes:
        if not isinstance(answer, bytes):
            raise TypeError("nobody could tell")
        return answer


def _rule(name: str, *stages: Plain, closed: bool = False, when: When | None = None) -> Rule:
    built = tuple(Built("kind", stage, stage.needs, False, False, frozenset(), frozenset()) for stage in stages)
    return Rule(name, built, when or When(), closed)


def _request(**more: object) -> Request:
    return Request(Endpoint.CHAT, b'{"model":"m"}', **more)  # type: ignore[arg-type]


def test_requests_go_through_in_order_and_answers_in_reverse() -> None:
    passage = Chain((_rule("one", Marks("a"), Marks("b")), _rule("two", Marks("c")))).enter(_request())
    asked = done(passage.ask())
    assert asked.body == b'{"model":"m","a":1,"b":1,"c":1}'
    assert asked.headers == {"x-ask": "c"}
    assert asked.metadata == {"one": {"seen": "b"}, "two": {"seen": "c"}}
    assert done(passage.answer(b"answer ")).body == b"answer cba"


def test_a_stream_goes_through_in_reverse_and_ends_once() -> None:
    passage = Chain((_rule("one", Marks("a")), _rule("two", Marks("b")))).enter(_request())
    done(passage.ask())
    flow = passage.stream()
    assert flow is not None
    assert done(flow.feed(b"x")) == b"xba"
    assert done(flow.end()) == b".ba.a"
    assert done(flow.end()) == b""
    assert flow.metadata() == {"one": {"streamed": "a"}, "two": {"streamed": "b"}}


@pytest.mark.parametrize("outcome", [Outcome(refusal=Refusal(400, "no", "No.")), Outcome(reply=Reply(200, "t", b"x"))])
def test_what_is_answered_goes_no_further(outcome: Outcome) -> None:
    asked = done(Chain((_rule("first", Says(outcome)), _rule("second", Fails(), closed=True))).enter(_request()).ask())
    assert (asked.refusal, asked.reply, asked.by) == (outcome.refusal, outcome.reply, "first")


class Asks(Plain):
    """Asks twice, and says what it was told."""

    needs = _ALL

    def request(self, request: Request) -> Outcome:
        return Outcome(question=Wonders("first"), state=())

    def told(self, request: Request, state: object, answer: object) -> Outcome:
        assert isinstance(state, tuple)
        if answer == "fail":
            raise RuntimeError("secret")
        heard = (*state, answer)
        if len(heard) < 2:
            return Outcome(question=Wonders("second"), state=heard)
        return Outcome(metadata={"heard": list(heard)}, headers={"x-ask": "asks"})


def test_a_stage_is_told_what_it_asks() -> None:
    passage = Chain((_rule("one", Marks("a")), _rule("asks", Asks()), _rule("two", Marks("b")))).enter(_request())
    steps = passage.ask()
    assert next(steps) == ("asks", Wonders("first"))
    assert steps.send("yes") == ("asks", Wonders("second"))
    with pytest.raises(StopIteration) as ended:
        steps.send(None)
    assert ended.value.value.body == b'{"model":"m","a":1,"b":1}'
    assert ended.value.value.metadata["asks"] == {"heard": ["yes", None]}


@pytest.mark.parametrize("closed", [True, False])
def test_a_stage_that_fails_at_the_answer_fails_its_rule(closed: bool) -> None:
    passage = Chain((_rule("asks", Asks(), closed=closed), _rule("two", Marks("b")))).enter(_request())
    asked = done(passage.ask(), "fail")
    assert (asked.refusal is not None) is closed
    assert passage.failed == ["asks"]
    assert asked.body == (None if closed else b'{"model":"m","b":1}')


@pytest.mark.parametrize(("kind", "body"), [("application/json", b"xba"), ("text/event-stream", b"xba.ba.a")])
def test_what_a_stage_answers_passes_those_before_it(kind: str, body: bytes) -> None:
    reply = Says(Outcome(reply=Reply(200, kind, b"x", cached=True)))
    rules = (_rule("one", Marks("a")), _rule("two", Marks("b"), reply, Marks("c")), _rule("three", Marks("d")))
    asked = done(Chain(rules).enter(_request()).ask())
    assert asked.reply == Reply(200, kind, body, cached=True)
    assert asked.by == "two"


def test_what_a_stage_answers_can_be_refused_by_those_before_it() -> None:
    reply = Says(Outcome(reply=Reply(200, "application/json", b"x")))
    asked = done(Chain((_rule("bad", FailsLater("a"), closed=True), _rule("two", reply))).enter(_request()).ask())
    assert (asked.reply, asked.by) == (None, "bad")
    assert asked.refusal is not None and asked.refusal.code == "rule_failed"


def test_an_open_rule_that_fails_is_passed_over() -> None:
    passage = Chain((_rule("bad", Fails(), Marks("x")), _rule("good", Marks("a")))).enter(_request())
    asked = done(passage.ask())
    assert (asked.body, asked.refusal) == (b'{"model":"m","a":1}', None)
    assert passage.failed == ["bad"]
    assert done(passage.answer(b"answer ")).body == b"answer a"


def test_a_closed_rule_that_fails_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    asked = done(Chain((_rule("bad", Fails(), closed=True),)).enter(_request()).ask())
    assert asked.refusal is not None
    assert (asked.refusal.status, asked.refusal.code, asked.by) == (500, "rule_failed", "bad")
    assert "secret" not in asked.refusal.message + "".join(capsys.readouterr())


@pytest.mark.parametrize("closed", [True, False])
def test_a_rule_that_fails_on_the_way_back(closed: bool) -> None:
    passage = Chain((_rule("bad", FailsLater("b"), closed=closed), _rule("good", Marks("a")))).enter(_request())
    done(passage.ask())
    answered = done(passage.answer(b"answer "))
    assert (answered.refusal is not None) is closed
    assert answered.body == (None if closed else b"answer a")
    flow = passage.stream()
    assert flow is not None
    first, later = done(flow.feed(b"x")), done(flow.feed(b"y"))
    assert (b"rule_failed" in first, later) == ((True, b"") if closed else (False, b"ya"))


def test_a_stage_may_ask_on_both_ways() -> None:
    passage = Chain((_rule("one", Marks("a")), _rule("two", Judges()), _rule("three", Marks("c")))).enter(_request())
    asked = done(passage.ask(), b"x")
    assert (asked.body, asked.metadata["two"]) == (b'{"model":"x","c":1}', {"told": 1})
    assert done(passage.answer(b"answer "), b"other ").body == b"other a"
    flow = passage.stream()
    assert flow is not None
    assert [done(flow.feed(b"1")), done(flow.feed(b"2"))] == [b"", b""]
    assert done(flow.end(), b"told") == b"tolda.a"


def test_a_held_stream_that_needs_no_question_goes_out() -> None:
    passage = Chain((_rule("two", Judges()),)).enter(_request())
    done(passage.ask(), b"x")
    flow = passage.stream()
    assert flow is not None
    assert [done(flow.feed(b"fi")), done(flow.feed(b"ne")), done(flow.end())] == [b"", b"", b"fine"]


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize(("parts", "asks"), [([b"some", b"text"], True), ([b"1234", b"56789", b"0"], False)])
def test_a_held_stream_whose_rule_fails(closed: bool, parts: list[bytes], asks: bool) -> None:
    """Nobody tells, or it is too long: a rule that must hold shows nothing of it, another one all."""
    passage = Chain((_rule("two", Judges(), closed=closed),)).enter(_request())
    done(passage.ask(), b"x")
    flow = passage.stream()
    assert flow is not None
    out = b"".join([done(flow.feed(part)) for part in parts]) + done(flow.end(), *([None] if asks else []))
    if closed:
        assert b"rule_failed" in out
        assert parts[0] not in out
    else:
        assert out == b"".join(parts)
    assert flow.failed == ["two"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a":1,"a":2}', b"\xff", b"[" * 9999])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    asked = done(Chain((_rule("one", Marks("a")),)).enter(Request(Endpoint.CHAT, body)).ask())
    assert asked.refusal is not None
    assert asked.refusal.code == "invalid_json"


def test_what_no_stage_can_read_is_refused_where_a_rule_must_hold() -> None:
    assert done(Chain((_rule("one", Marks("a")),)).enter(_request()).unseen()).refusal is None
    refusal = done(Chain((_rule("one", Marks("a"), closed=True),)).enter(_request()).unseen()).refusal
    assert refusal is not None
    assert refusal.code == "rule_not_applicable"


@pytest.mark.parametrize(
    ("when", "request_", "applies"),
    [
        (When(), _request(), True),
        (When(headers={"x-app": ("beta-*", "one")}), _request(headers={"x-app": "beta-2"}), True),
        (When(headers={"x-app": ("beta-*", "one")}), _request(headers={"x-app": "two"}), False),
        (When(headers={"x-app": ("*",)}), _request(), False),
        (When(keys=("alice",)), _request(key="alice"), True),
        (When(keys=("alice",)), _request(key="bob"), False),
        (When(keys=("alice",), teams=("search",)), _request(key="alice"), False),
    ],
)
def test_when_a_rule_applies(when: When, request_: Request, applies: bool) -> None:
    assert _rule("one", Marks("a"), when=when).applies(request_) is applies


class Answers(Marks):
    needs = Needs(answer=Access.CHANGE)

    def request(self, request: Request) -> Outcome:
        return Outcome(headers={"x-ask": self.name})


def test_a_rule_for_answers_leaves_forms_alone() -> None:
    rules = (_rule("one", Answers("a"), closed=True), _rule("two", Marks("b")))
    passage = Chain(rules).enter(_request())
    asked = done(passage.unseen())
    assert (asked.refusal, asked.body, asked.headers) == (None, None, {"x-ask": "a"})
    assert done(passage.answer(b"")).body == b"a"
    others = Chain((_rule("one", Marks("a"), closed=True, when=When(teams=("search",))),)).enter(_request(team="red"))
    assert done(others.unseen()).refusal is None


@pytest.mark.parametrize("when", [When(keys=("alice",)), When(teams=("search",)), When(headers={"x-app": ("*",)})])
def test_a_rule_for_answers_sees_the_request_where_it_has_to_know_whose_it_is(when: When) -> None:
    assert needs_of((_rule("one", Answers("a")),)).request is Access.NONE
    assert needs_of((_rule("one", Answers("a"), when=when),)).request is Access.READ


def test_needs_are_those_of_all_and_closed_is_for_the_rule_to_say() -> None:
    assert needs_of((_rule("one", Says(Outcome())), _rule("two", Marks("a"), closed=True))).closed
    assert not needs_of((_rule("one", Marks("a")),)).closed
    assert needs_of((_rule("one", Says(Outcome())), _rule("two", Marks("a")))).answer is Access.CHANGE
