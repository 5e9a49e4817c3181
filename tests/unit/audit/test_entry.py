"""What an entry is: canonical for every program, and free of secrets."""

import hashlib
import json
import secrets
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.audit import clean
from controlplane.audit.entry import (
    EMPTY,
    LONGEST_LINE,
    SYSTEM,
    Action,
    Actor,
    DamagedLineError,
    Event,
    Head,
    digest,
    parse,
    seal,
)

AT = datetime(2026, 3, 1, 12, 0, 0, 123987, tzinfo=UTC)
plain = st.one_of(st.text(), st.integers(-clean.LARGEST_INT, clean.LARGEST_INT), st.booleans(), st.none())
fields = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True).filter(lambda name: "_key" not in name)
details = st.dictionaries(fields.filter(lambda n: not clean._SECRET_WORD.search(n)), plain, max_size=6)
events = st.builds(
    Event,
    st.builds(Actor, st.sampled_from(["user", "system", "client"]), st.text(), st.text()),
    st.sampled_from(list(Action)),
    st.text(),
    details,
)


@given(events, st.datetimes(timezones=st.timezones()).filter(lambda at: 2 < at.year < 9998), st.booleans())
def test_a_line_is_what_any_json_library_makes_and_reads(event: Event, at: datetime, delayed: bool) -> None:
    entry, line = seal(event, at, EMPTY, delayed=delayed)
    data = json.loads(line)
    plainly = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    assert line == plainly
    own = data.pop("hash")
    body = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert own == hashlib.sha256(body).hexdigest()
    assert parse(line) == entry
    assert len(line) <= LONGEST_LINE
    assert data["details"].get("delayed", False) is delayed or "delayed" in event.details


def test_a_line_word_for_word() -> None:
    event = Event(Actor("user", "alice", "10.0.0.9"), Action.KEY_ISSUED, "build", {"team": "ml", "models": ["a", "b"]})
    _, line = seal(event, AT.astimezone(timezone(timedelta(hours=2))), Head(6, "ab" * 32))
    own = json.loads(line)["hash"]
    assert line.decode() == (
        '{"action":"key.issued","actor":{"from":"10.0.0.9","kind":"user","name":"alice"},"at":"2026-03-01T12:00:00.123Z",'
        '"details":{"models":["a","b"],"team":"ml"},"hash":"' + own + '","prev":"' + "ab" * 32 + '","seq":7,'
        '"target":"build"}\n'
    )


@given(events, st.data())
def test_any_change_of_a_line_is_seen(event: Event, data: st.DataObject) -> None:
    _, line = seal(event, AT, EMPTY)
    place = data.draw(st.integers(0, len(line) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != line[place]))
    with pytest.raises(DamagedLineError):
        parse(line[:place] + bytes([other]) + line[place + 1 :])


@given(st.binary(max_size=200))
def test_bytes_are_no_entry(data: bytes) -> None:
    with pytest.raises(DamagedLineError):
        parse(data + b"\n")


@pytest.mark.parametrize(
    "change",
    [
        {"seq": "1"}, {"seq": True}, {"actor": []}, {"actor": {"kind": "dog", "name": "", "from": ""}}, {"at": 5},
        {"actor": {"kind": ["user"], "name": "", "from": ""}}, {"at": "2026-13-01T00:00:00.000Z"}, {"details": "x"},
        {"details": {"deep": json.loads("[" * 300 + "]" * 300)}}, {"details": {"n": 10**30}}, {"at": "yesterday"},
    ],
)  # fmt: skip
def test_a_forged_line_with_a_right_hash_must_still_be_an_entry(change: dict[str, object]) -> None:
    data = json.loads(seal(Event(SYSTEM, Action.ADMIN_CALLED, "x"), AT, EMPTY)[1]) | change
    del data["hash"]
    body = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    line = json.dumps(data | {"hash": digest(body)}, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    with pytest.raises(DamagedLineError):
        parse(line)


@pytest.mark.parametrize(
    "name",
    ["secret", "client_secret", "password", "token", "access_token", "authorization", "api_key", "private_key_pem",
     "signing_keys", "cookie", "bearer", "jwt"],
)  # fmt: skip
def test_fields_named_like_secrets_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="named like a secret") as raised:
        Event(SYSTEM, Action.KEY_ISSUED, "x", {name: "hunter2"})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("name", ["key", "key_id", "tokens", "max_tokens", "prev", "monkey", "input_tokens"])
def test_fields_named_like_counts_and_names_are_fine(name: str) -> None:
    assert Event(SYSTEM, Action.KEY_ISSUED, "x", {name: 1}).details == {name: 1}


@pytest.mark.parametrize(
    "value",
    [
        "sk-proj-abcdefghij0123456789", "Bearer abcdefgh12345", "hg-eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln",
        "postgresql://me:hunter2@db/ledger", "-----BEGIN PRIVATE KEY-----", "see ghp_0123456789abcdefABCD here",
        "Xk4jQ9wLm2Zr8TbV5nHc7YpD3sGfA6eU", "AKIAIOSFODNN7EXAMPLE",
    ],
)  # fmt: skip
def test_values_that_look_like_secrets_are_masked_everywhere(value: str) -> None:
    event = Event(Actor("user", value, value), "some.thing", value, {"a": value, "b": ["x", value]})
    _, line = seal(event, AT, EMPTY)
    assert value.encode() not in line
    assert event.target == event.actor.name == event.actor.source == "[redacted]"
    assert event.details == {"a": "[redacted]", "b": ["x", "[redacted]"]}


@pytest.mark.parametrize(
    "value",
    [
        "meta-llama/Llama-3.3-70B-Instruct-Turbo-Free", "gpt-4o-mini-2024-07-18", "svcAccountForBilling2024prod",
        "10.0.0.7:8000", "2001:db8:85a3::8a2e:370:7334", "claude-sonnet-4-5", "https://user@host/path", "a-risk-test",
        "Qwen2.5-Coder-32B-Instruct-GPTQ-Int4", "the-quick-brown-fox-jumps-over-the-lazy-dog-twice-today",
        hashlib.sha256(b"x").hexdigest(), str(uuid.UUID(int=2**127 + 12345)),
    ],
)  # fmt: skip
def test_names_and_digests_stay(value: str) -> None:
    assert clean.text(value) == value


def test_random_tokens_are_recognised() -> None:
    assert sum(clean.looks_secret(secrets.token_urlsafe(32)) for _ in range(500)) > 490


def test_values_must_be_plain_and_short() -> None:
    for value in (1.5, {"a": 1}, b"x", [[1]], [None], [True], 2**53):
        with pytest.raises(ValueError, match="audit detail 'x'"):
            Event(SYSTEM, Action.KEY_ISSUED, "x", {"x": value})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="at most 32"):
        Event(SYSTEM, Action.KEY_ISSUED, "x", {f"x{i}": 1 for i in range(33)})
    with pytest.raises(ValueError, match="take more than"):
        Event(SYSTEM, Action.KEY_ISSUED, "x", {f"x{i}": ["\0" * 512] * 50 for i in range(3)})
    assert clean.text("word " * 200).endswith("…")
    assert len(clean.text("word " * 200)) == 512
    assert clean.details({"x": list(range(60))})["x"][-1] == "… 10 more"  # type: ignore[index]
    assert clean.text("a\udcffb") == "a?b"


@pytest.mark.parametrize("action", ["", "issued", "Key.issued", "key.", ".key", "key issued", "key.issued\n", "a-b"])
def test_actions_are_dotted_words(action: str) -> None:
    with pytest.raises(ValueError, match="dotted words"):
        Event(SYSTEM, action, "x")


def test_actors_are_of_three_kinds() -> None:
    with pytest.raises(ValueError, match="expected one of user, system, client"):
        Actor("dog", "rex", "cli")  # type: ignore[arg-type]


def test_a_head_is_one_word() -> None:
    head = Head(12, "ab" * 32)
    assert Head.parse(f" {head}\n") == head
    for text in ("", "12", "12:", "x:" + "ab" * 32, "12:" + "AB" * 32, "-1:" + "ab" * 32, "²:" + "ab" * 32):
        with pytest.raises(ValueError, match="expected SEQ:DIGEST"):
            Head.parse(text)
