"""The small languages inside a policy: what is rendered is read back, and garbage is a ValueError, nothing else."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.policy import grammar
from controlplane.policy.grammar import Address, Rate, Url

HOSTS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9-]{0,10}[a-z0-9](\.[a-z]{2,5})?", fullmatch=True),
    st.ip_addresses(v=4).map(str),
)
PORTS = st.integers(1, 65535)
PARSERS: tuple[Callable[[str], Any], ...] = (
    grammar.duration, grammar.size, grammar.rate, grammar.address, grammar.url, grammar.name, grammar.model,
    grammar.pattern,
)  # fmt: skip
# Text that is nearly right finds more than text that is random.
NEARLY = st.text("0123456789msdhkMKiB/:.[]@*?#ahtp- \n\0é", max_size=20)


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@given(text=st.one_of(NEARLY, st.text(max_size=30)))
def test_garbage_is_a_value_error_that_says_what_was_expected(parse: Callable[[str], Any], text: str) -> None:
    try:
        parse(text)
    except ValueError as error:
        assert str(error)


@given(
    st.integers(0, 365), st.sampled_from([("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)])
)
def test_durations(amount: int, unit: tuple[str, int]) -> None:
    assert grammar.duration(f"{amount}{unit[0]}") == amount * unit[1]


@given(st.integers(1, 1023), st.sampled_from([("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20)]))
def test_sizes(amount: int, unit: tuple[str, int]) -> None:
    assert grammar.size(f"{amount}{unit[0]}") == amount * unit[1]
    assert grammar.size(amount) == grammar.size(f"{amount}B") == grammar.size(str(amount))


@given(
    st.integers(1, 4000),
    st.sampled_from([("", 1), ("k", 1000), ("M", 1_000_000)]),
    st.sampled_from([("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)]),
)
def test_rates(amount: int, prefix: tuple[str, int], period: tuple[str, int]) -> None:
    assert grammar.rate(f"{amount}{prefix[0]}/{period[0]}") == Rate(amount * prefix[1], period[1])


@given(HOSTS, PORTS)
def test_addresses(host: str, port: int) -> None:
    assert grammar.address(str(Address(host, port))) == Address(host, port)


@given(st.ip_addresses(v=6).map(str), PORTS)
def test_addresses_of_ipv6(host: str, port: int) -> None:
    assert grammar.address(str(Address(host, port))) == Address(host, port)


@given(st.sampled_from(["http", "https"]), HOSTS, PORTS, st.from_regex(r"(/[a-z0-9._-]{1,8}){0,3}", fullmatch=True))
def test_urls(scheme: str, host: str, port: int, path: str) -> None:
    url = Url(scheme, host, port, path)
    assert grammar.url(str(url)) == url
    assert grammar.url(f"{url}/") == url


@pytest.mark.parametrize(
    ("pattern", "parse"),
    [
        (grammar.NAME, grammar.name), (grammar.MODEL, grammar.model), (grammar.PATTERN, grammar.pattern),
        (grammar.DURATION, grammar.duration), (grammar.RATE, grammar.rate), (grammar.SIZE, grammar.size),
    ],
    ids=["name", "model", "pattern", "duration", "rate", "size"],
)  # fmt: skip
@given(text=st.one_of(NEARLY, st.text("aZ0._-:/@+=*\n", max_size=70)))
def test_what_is_read_also_fits_the_json_schema(pattern: str, parse: Callable[[str], Any], text: str) -> None:
    try:
        parse(text)
    except ValueError:
        return
    assert re.search(pattern, text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (grammar.duration, "30"), (grammar.duration, "-1s"), (grammar.duration, "1.5s"), (grammar.duration, "30s\n"),
        (grammar.size, "32MB"), (grammar.size, "32 MiB"), (grammar.rate, "0/m"), (grammar.rate, "600/min"),
        (grammar.rate, "5000M/s"), (grammar.address, "8080"), (grammar.address, ":8080"), (grammar.address, "a:0"),
        (grammar.address, "a:65536"), (grammar.address, "::1:8080"), (grammar.address, "1.2.3:80"),
        (grammar.url, "ftp://a/v1"), (grammar.url, "https://me@a/v1"), (grammar.url, "https://a/v1?x=1"),
        (grammar.url, "https://a/v1#x"), (grammar.url, "https:///v1"), (grammar.url, "https://a:99999"),
        (grammar.name, "-a"), (grammar.name, "a" * 64), (grammar.name, "a\n"), (grammar.model, "*"),
        (grammar.model, "a*"), (grammar.pattern, "a*b"), (grammar.pattern, "*a"), (grammar.pattern, "a**"),
    ],
)  # fmt: skip
def test_refused(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1:1", True), ("127.8.0.1:1", True), ("[::1]:1", True), ("localhost:1", True), ("0.0.0.0:1", False),
     ("[::]:1", False), ("10.0.0.1:1", False), ("example.com:1", False)],
)  # fmt: skip
def test_loopback(address: str, loopback: bool) -> None:
    assert grammar.address(address).loopback is loopback


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_times_before_and_after_now() -> None:
    assert grammar.earlier("24h", NOW) == datetime(2026, 2, 28, 12, tzinfo=UTC)
    assert grammar.later("24h", NOW) == datetime(2026, 3, 2, 12, tzinfo=UTC)
    assert grammar.earlier("2026-01-01", NOW) == grammar.later("2026-01-01", NOW) == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("parse", [grammar.earlier, grammar.later])
@pytest.mark.parametrize(("text", "expected"), [("366d", "at most 365d"), ("soon", "2027-01-01"), ("", "2027-01-01")])
def test_a_time_that_is_none_says_what_was_expected(
    parse: Callable[[str, datetime], datetime], text: str, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        parse(text, NOW)
