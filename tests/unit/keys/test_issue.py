"""Issuing and verifying, over everything that can be asked for and much that can be forged."""

import base64
import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import jwt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from controlplane.keys.issue import LEEWAY_S, Request, TokenError, issue, verify
from controlplane.keys.signing import SigningKeys

NOW = datetime(2026, 5, 1, 12, 30, 15, 250_000, tzinfo=UTC)
HOUR = timedelta(hours=1)

with tempfile.TemporaryDirectory() as _folder:
    SIGNING = SigningKeys.open(Path(_folder) / "keys", NOW)
    OTHER = SigningKeys.open(Path(_folder) / "other", NOW)
JWKS = SIGNING.public_jwks(NOW)

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
lists = st.lists(names, max_size=5).map(tuple)
requests = st.builds(
    Request,
    name=names,
    identity=st.from_regex(r"[!-~]([ -~]{0,60}[!-~])?", fullmatch=True),
    expires=st.none() | st.timedeltas(HOUR, 100_000 * HOUR).map(lambda later: NOW + later),
    team=st.none() | names,
    models=st.none() | lists,
    limits=lists,
    budget=st.none() | names,
)


def made(**more: object) -> str:
    return issue(SIGNING.current, Request("alice", "alice;std;", **more), NOW, uuid4()).secret  # type: ignore[arg-type]


@settings(deadline=None)  # the machine may be busy
@given(requests)
def test_what_is_issued_verifies(request: Request) -> None:
    jti = uuid4()
    issued = issue(SIGNING.current, request, NOW, jti)
    claims = verify(issued.secret, JWKS, NOW)
    assert (claims.name, claims.identity, claims.jti, claims.kid) == (
        request.name, request.identity, str(jti), SIGNING.current.kid,
    )  # fmt: skip
    assert (claims.team, claims.models, claims.limits, claims.budget) == (
        request.team, request.models, request.limits, request.budget,
    )  # fmt: skip
    assert claims.issued == issued.issued == NOW.replace(microsecond=0)
    assert claims.expires == issued.expires
    assert (issued.name, issued.jti, issued.kid) == (claims.name, claims.jti, claims.kid)
    assert issued.secret not in repr(issued)


@settings(deadline=None)  # the machine may be busy
@given(st.data())
def test_a_changed_character_is_noticed(data: st.DataObject) -> None:
    secret = made()
    at = data.draw(st.integers(0, len(secret) - 1))
    changed = secret[:at] + data.draw(st.characters(min_codepoint=33, max_codepoint=126)) + secret[at + 1 :]
    # The last character of a part has bits that mean nothing.
    assume(_decoded(changed) != _decoded(secret))
    with pytest.raises(TokenError) as caught:
        verify(changed, JWKS, NOW)
    assert changed[10:] not in str(caught.value)


def _decoded(secret: str) -> tuple[str, list[bytes] | str]:
    prefix, token = secret[:3], secret[3:]
    try:
        parts = [base64.b64decode(part + "==", b"-_", validate=True) for part in token.split(".")]
        return prefix, parts
    except ValueError:
        return prefix, token


@settings(deadline=None)  # the machine may be busy
@given(st.text() | st.binary().map(lambda raw: "hg-" + base64.urlsafe_b64encode(raw).decode()))
def test_anything_else_is_refused_and_breaks_nothing(text: str) -> None:
    with pytest.raises(TokenError):
        verify(text, JWKS, NOW)


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(st.text(), st.integers() | st.none() | st.text()))
def test_a_well_signed_token_of_other_claims_is_refused(claims: dict[str, object]) -> None:
    token = jwt.api_jws.encode(
        json.dumps(claims).encode(), SIGNING.current.private, "ES256", {"kid": SIGNING.current.kid}
    )
    with pytest.raises(TokenError):
        verify("hg-" + token, JWKS, NOW)


def test_a_token_ends_when_it_says_and_a_second_later_for_the_clocks() -> None:
    secret = made(expires=NOW + HOUR)
    end = (NOW + HOUR).replace(microsecond=0) + timedelta(seconds=LEEWAY_S)
    verify(secret, JWKS, end - timedelta(microseconds=1))
    with pytest.raises(TokenError, match="expired at 2026-05-01T13:30:15"):
        verify(secret, JWKS, end)


def test_clocks_that_are_behind_accept_it_at_once() -> None:
    secret = made()
    verify(secret, JWKS, NOW - timedelta(seconds=60))
    with pytest.raises(TokenError, match="not valid yet"):
        verify(secret, JWKS, NOW - timedelta(seconds=63))


def test_only_accepted_keys_and_one_algorithm_count() -> None:
    secret = made()
    with pytest.raises(TokenError, match="not accepted"):
        verify(secret, OTHER.public_jwks(NOW), NOW)
    with pytest.raises(TokenError):
        verify(secret, JWKS, NOW, issuer="another")
    claims = jwt.decode(secret[3:], options={"verify_signature": False})
    kid = {"kid": SIGNING.current.kid}
    for forged in (
        jwt.encode(claims, "", "none", kid),
        jwt.encode(claims, "a secret that is long enough to be one", "HS256", kid),
        jwt.encode(claims, OTHER.current.private, "ES256", kid),
        jwt.encode(claims, SIGNING.current.private, "ES256"),
    ):
        with pytest.raises(TokenError):
            verify("hg-" + forged, JWKS, NOW)


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (Request("", "a"), "needs a name"),
        (Request("a", ""), "needs a name and an identity"),
        (Request("a", "a\r\nx: y"), "printable"),
        (Request("a", "ä"), "printable"),
        (Request("a", " a"), "printable"),
        (Request("a", "a", NOW - HOUR), "would expire"),
        (Request("a", "a", NOW), "would expire"),
        (Request("a", "a", NOW.replace(tzinfo=None)), "time zone"),
        (Request("a", "a", models=("m" * 4000,)), "name fewer models"),
    ],
)
def test_what_cannot_be_issued(request_: Request, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        issue(SIGNING.current, request_, NOW, uuid4())
