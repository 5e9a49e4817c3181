"""Patterns and the detectors made of them: in parts they find what they find in whole."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from extproc.stages.detectors import Detector, Kind, card, detector, iban
from extproc.stages.matching import MOST_HELD, Matcher, Parts
from extproc.stages.regex import PatternError, compiled_bytes, literal, pattern
from tests.unit.stages.given import CUTS, chunked

ALL = Matcher([detector(kind) for kind in Kind])
CUSTOM = Matcher(
    [
        Detector("ticket", pattern(r"\bTCK-[0-9]{3,6}\b")),
        Detector("pair", pattern(r"(?i)(?:ab|a)c*(?:d|é+)")),
        Detector("words", literal("Project X", ignore_case=True, whole_words=True)),
        Detector("even", pattern("[0-9]{2,5}"), lambda match: (0, 2) if match[1] % 2 == 0 else None),
    ]
)


def name(one: Detector, match: bytes) -> bytes:
    return f"<{one.name}:{match.decode()}>".encode()


def redacted(text: str) -> str:
    return ALL.replaced(text, lambda one, match: f"[{one.name}]".encode())


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("mail bob.x+1@mail.example.org, please", "mail [email], please"),
        ("not@an-address and @nobody", "not@an-address and @nobody"),
        ("4111 1111 1111 1111 123 ok", "[credit_card] 123 ok"),
        ("4111-1111-1111-1111", "[credit_card]"),
        ("card 378282246310005.", "card [credit_card]."),
        ("3782 822463 10005", "[credit_card]"),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("order 5555555555554443", "order 5555555555554443"),
        ("DE89 3704 0044 0532 0130 00 and more", "[iban] and more"),
        ("GB82WEST12345698765432", "[iban]"),
        ("DE88370400440532013000", "DE88370400440532013000"),
        ("call +49 30 1234567 or (212) 555-0123", "call [phone] or [phone]"),
        ("it costs 1,234,567 in 2024", "it costs 1,234,567 in 2024"),
        ("ssn 123-45-6789, not 000-12-3456", "ssn [us_ssn], not 000-12-3456"),
        ("from 10.0.0.1 not 999.1.1.1 v1.2.3", "from [ip_address] not 999.1.1.1 v1.2.3"),
        ("AKIAIOSFODNN7EXAMPLE", "[secret]"),
        ("key=sk-proj-abcdefghijklmnopqrstuvwx;", "key=[secret];"),
        ("ghp_" + "a1B2" * 9, "[secret]"),
        ("eyJhbGciOi.eyJzdWIiOi.SflKxwRJ x", "[secret] x"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----", "[secret]"),
        ("task-skip the rest", "task-skip the rest"),
        ("", ""),
    ],
)
def test_known_formats(text: str, clean: str) -> None:
    assert redacted(text) == clean


def test_checksums() -> None:
    assert card(b"4111111111111111") and not card(b"4111111111111112") and not card(b"4444444444444444"[:15])
    assert iban(b"GB82WEST12345698765432") and not iban(b"GB82WEST12345698765433") and not iban(b"ZZ82WEST12345698")


@pytest.mark.parametrize("matcher", [ALL, CUSTOM], ids=["known", "custom"])
@given(data=st.data())
@settings(max_examples=250)
def test_in_parts_as_in_whole(matcher: Matcher, data: st.DataObject) -> None:
    pieces = st.sampled_from(
        [
            "bob@",
            "example",
            ".org",
            " ",
            "4111",
            "1111",
            "-",
            "1",
            "22",
            "+49",
            "DE89",
            "3704",
            "0044",
            "0532",
            "0130",
            "00",
            "sk-",
            "abcdefghij",
            "eyJab.",
            "123-45-6789",
            "10.0.",
            "0.1",
            "TCK-",
            "123",
            "a",
            "b",
            "c",
            "é",
            "d",
            "Project",
            "X",
            "x",
            "日",
            "-----BEGIN PRIVATE KEY-----",
            "\n",
            "ghp_",
            "A1",
        ]
    )
    text = "".join(data.draw(st.lists(pieces, max_size=14)))
    parts = Parts(matcher, name)
    out = ""
    for chunk in chunked_text(text, data.draw(CUTS)):
        out += parts.feed(chunk)
    out += parts.end()
    assert out == matcher.replaced(text, name)
    assert parts.end() == "" and not parts.holds


def chunked_text(text: str, cuts: list[int]) -> list[str]:
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize(
    ("source", "text", "held"),
    [
        ("TCK-[0-9]{3}", "see TC", "TC"),
        ("TCK-[0-9]{3}", "see TCK-123", "TCK-123"),
        ("TCK-[0-9]{3}", "see TCK-1234", ""),
        ("TCK-[0-9]{3}", "see TCX", ""),
        ("ab+c", "xabbb", "abbb"),
        ("ab+c", "xabbbd", ""),
        ("(?i)secret|a[bc]d", "SEC", "SEC"),
        ("a(?:bc){2,3}d", "zabcbcb", "abcbcb"),
        ("a{2}", "a", "a"),
    ],
)
def test_no_more_is_held_than_may_become_a_match(source: str, text: str, held: str) -> None:
    parts = Parts(Matcher([Detector("x", pattern(source))]), lambda _, match: match)
    assert parts.feed(text) + held == text
    assert parts.holds is (held != "")
    assert parts.end() == held


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a|bc", "bc"),
        ("x(?:yz)?", "xyz"),
        ("[a-c]{2,4}d", "abcad"),
        (r"(?P<n>a)(b)\.c", "ab.c"),
        (r"\w+@\w+", "bob@host"),
        ("é{2}", "éé"),
        ("a.c", "a\nc"),
        (r"\x{65E5}+?z", "日日z"),
        ("[]a]b", "]b"),
        ("(?i)straße", "STRASSE"[:4] + "ße"),
        (r"\bfoo\b bar", "foo bar"),
    ],
)
def test_beginnings_are_those_of_matches(source: str, text: str) -> None:
    made = pattern(source)
    assert compiled_bytes(f"^(?:{made.source})$").search(text.encode())
    beginnings = compiled_bytes(f"^(?:{made.beginnings})$")
    assert all(beginnings.search(text[:length].encode()) for length in range(len(text) + 1))
    assert not beginnings.search(("~" + text).encode())


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("(a", "the group at character 0 does not end"),
        ("a)", ") at character 1 closes nothing"),
        ("*a", "* at character 0 repeats nothing"),
        ("a**", "a repeat of a repeat"),
        ("(?=a)", "look-around"),
        (r"(a)\1", "an escape that is not in the language"),
        ("^a", "texts come in parts"),
        ("a{1001}", "0 to 1000 is expected"),
        ("a{3,2}", "0 to 1000 is expected"),
        ("[a", "a class that does not end"),
        ("a*", "matches the empty text"),
        ("", "matches the empty text"),
        (r"\b", "matches the empty text"),
        (r"(?:(?:a{99}){99}){99}", "repeats within repeats"),
        ("(" * 200 + "a" + ")" * 200, "nested deeper"),
        ("a" * 30_000, "at most 20000"),
        ("[z-a]", "character class"),
    ],
)
def test_patterns_that_cannot_be(source: str, told: str) -> None:
    with pytest.raises(PatternError) as caught:
        pattern(source)
    assert told in str(caught.value)


@given(st.text(st.sampled_from("ab(|)[]{}*+?\\.^$,1d:P<>é-"), max_size=12))
@example("[[:alpha:]]")
@example(r"a|\B")
def test_any_text_is_a_pattern_or_an_error(source: str) -> None:
    try:
        made = pattern(source)
    except PatternError:
        return
    matcher = Matcher([Detector("x", made)])
    assert matcher.replaced("aab(1)dé", lambda _, match: match) == "aab(1)dé"


@given(st.text(max_size=20))
def test_a_literal_is_found_as_it_is(text: str) -> None:
    if text:
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            return
        around = b"--" + encoded + b"--"
        start, end = compiled_bytes(literal(text).source).search(around).span()
        assert around[start:end] == encoded


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        "4111 " * 100_000,
        "1.1.1." * 100_000,
        "a@" * 300_000,
        "DE89 " * 100_000,
        "+1 " * 200_000,
        "eyJ" * 300_000,
        "-----BEGIN PRIVATE KEY-----" * 30_000,
    ],
    ids=lambda text: text[:6],
)
def test_time_is_linear(text: str) -> None:
    begun = time.process_time()
    ALL.replaced(text, name)
    assert time.process_time() - begun < 20


def test_what_is_held_is_bounded() -> None:
    parts = Parts(ALL, name)
    out = sum([len(parts.feed("-----BEGIN PRIVATE KEY-----" if n == 0 else "abcd" * 100)) for n in range(100)])
    assert parts.overflowed
    assert out > 100 * 400 - 2 * MOST_HELD


def test_cut_bytes_helper_is_lossless() -> None:
    assert b"".join(chunked(b"abcdef", [3, 1, 9])) == b"abcdef"
