"""Issuing and verifying tokens: pure, RFC 7519 over ES256.

A secret is `hg-` and the token. The prefix tells people and secret scanners what it is, and the edge whom to ask: it
strips the prefix by itself, so the check stays native.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt

from controlplane.keys.signing import ALGORITHM, SigningKey

PREFIX = "hg-"
ISSUER = "headgate"

# Clocks of the edge may be behind by this much, and a token is still good at once.
_BACKDATED = timedelta(seconds=60)
# A token is good for this many seconds longer than it says; the edge does the same (controlplane/xds/tokens.py).
LEEWAY_S = 1
# Envoy caches no longer ones, and some clients and proxies cut headers at 8 KiB.
_LONGEST = 4096


class TokenError(Exception):
    """A token that is not accepted, and why. Its text never holds the token."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be issued. `identity` is what the edge will know the client by.

    `models` None means every model. The fields below `identity` are shown to auditors; the edge enforces `identity`.
    """

    name: str
    identity: str
    expires: datetime | None = None
    team: str | None = None
    models: tuple[str, ...] | None = None
    limits: tuple[str, ...] = ()
    budget: str | None = None
    addresses: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """An issued key. `secret` is shown once and kept nowhere."""

    name: str
    secret: str = field(repr=False)
    jti: str
    kid: str
    issued: datetime
    expires: datetime | None


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says."""

    name: str
    identity: str
    jti: str
    kid: str
    issued: datetime
    expires: datetime | None
    team: str | None
    models: tuple[str, ...] | None
    limits: tuple[str, ...]
    budget: str | None


def issue(signer: SigningKey, request: Request, now: datetime, jti: UUID, issuer: str = ISSUER) -> Issued:
    """Signs a token. Times are rounded down to whole seconds.

    Raises:
        ValueError: it would expire at once, be too long for a header, or hold what no header can carry.
    """
    if not request.name or not request.identity:
        raise ValueError("a key needs a name and an identity")
    if not _header_safe(request.identity):
        raise ValueError("an identity is printable ASCII: the edge carries it in a header")
    issued = _whole_seconds(now)
    expires = None if request.expires is None else _whole_seconds(request.expires)
    if expires is not None and expires <= issued:
        raise ValueError(f"the key would expire at {expires.isoformat()}, which is not after {issued.isoformat()}")
    claims: dict[str, Any] = {
        "iss": issuer,
        "sub": request.name,
        "jti": str(jti),
        "iat": int(issued.timestamp()),
        "nbf": int((issued - _BACKDATED).timestamp()),
        "exp": None if expires is None else int(expires.timestamp()),
        "hg": request.identity,
        "team": request.team,
        "models": None if request.models is None else list(request.models),
        "limits": list(request.limits) or None,
        "budget": request.budget,
    }
    said = {name: value for name, value in claims.items() if value is not None}
    token = jwt.encode(said, signer.private, algorithm=ALGORITHM, headers={"kid": signer.kid})
    if len(token) > _LONGEST:
        raise ValueError(f"the token would have {len(token)} characters, more than {_LONGEST}: name fewer models")
    return Issued(request.name, PREFIX + token, str(jti), signer.kid, issued, expires)


def verify(secret: str, jwks: Mapping[str, Any], now: datetime, issuer: str = ISSUER) -> Claims:
    """What a secret says, once its signature, issuer and times are found good, with `LEEWAY_S` of leeway.

    Revocation is not looked at: ask the store for the `jti`.

    Raises:
        TokenError: it is not accepted.
    """
    if not secret.startswith(PREFIX):
        raise TokenError(f"an issued key begins with {PREFIX}")
    token = secret.removeprefix(PREFIX)
    try:
        kid = jwt.get_unverified_header(token).get("kid")
        key = next((key for key in jwks["keys"] if key["kid"] == kid), None)
        if key is None:
            raise TokenError("it was signed with a key that is not accepted (any more)")
        required = ["iss", "sub", "jti", "iat", "nbf", "hg"]
        # The times are compared below: PyJWT would ask the system's clock.
        options: Any = {"require": required, "verify_exp": False, "verify_nbf": False, "verify_iat": False}
        claims = jwt.decode(token, jwt.PyJWK(key, ALGORITHM), [ALGORITHM], options, issuer=issuer)
        return _claims(claims, str(kid), now)
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
        raise TokenError(f"it is no valid token ({type(error).__name__})") from None


def _claims(claims: Mapping[str, Any], kid: str, now: datetime) -> Claims:
    leeway = timedelta(seconds=LEEWAY_S)
    expires = datetime.fromtimestamp(claims["exp"], UTC) if "exp" in claims else None
    if expires is not None and now >= expires + leeway:
        raise TokenError(f"it expired at {expires.isoformat()}")
    if now < datetime.fromtimestamp(claims["nbf"], UTC) - leeway:
        raise TokenError("it is not valid yet: check the clocks")
    models = claims.get("models")
    return Claims(
        name=claims["sub"],
        identity=claims["hg"],
        jti=claims["jti"],
        kid=kid,
        issued=datetime.fromtimestamp(claims["iat"], UTC),
        expires=expires,
        team=claims.get("team"),
        models=None if models is None else tuple(models),
        limits=tuple(claims.get("limits", ())),
        budget=claims.get("budget"),
    )


def _whole_seconds(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time without a time zone")
    return moment.astimezone(UTC).replace(microsecond=0)


def _header_safe(value: str) -> bool:
    return value.isascii() and value.isprintable() and value == value.strip()
