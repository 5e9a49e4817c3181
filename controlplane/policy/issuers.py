"""What the language says about outside issuers: whose tokens are keys, and what their claims mean."""

from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag

from controlplane.policy.accounts import BudgetNames
from controlplane.policy.types import Clock, LimitName, Pattern, SecretType, Strict, TeamName, UrlType

_Text = Annotated[str, Field(pattern=r"^[!-~]+$", max_length=512)]
Audiences: TypeAlias = Annotated[
    Annotated[list[_Text], Field(min_length=1)],
    BeforeValidator(
        lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=_Text | list[_Text]
    ),
]
Claim: TypeAlias = Annotated[str, Field(pattern=r"^[!-~]+$", max_length=256, examples=["sub", "realm.groups"])]
ClaimValue: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]


class JwksUrl(Strict):
    """Keys that the issuer publishes. The edge fetches them ahead of requests, and again regularly."""

    url: UrlType = Field(description="The `jwks_uri` of the issuer's discovery document; https, or http on loopback.")
    ca: SecretType | None = Field(
        None, description="Trust these certificate authorities (PEM) instead of the system's."
    )
    refresh: Clock = Field(300_000, description="How often to fetch them: so long a new key may be unknown.")


def _form(value: Any) -> str:
    return "<url>" if isinstance(value, JwksUrl) or (isinstance(value, dict) and "url" in value) else "<kept>"


Jwks: TypeAlias = Annotated[
    Annotated[JwksUrl, Tag("<url>")] | Annotated[SecretType, Tag("<kept>")], Discriminator(_form)
]


class Claims(Strict):
    """Which claims of a token say what. Dots lead into objects, unless a claim has the whole name."""

    key: Claim = Field("sub", description="The client's name: its key is ISSUER:NAME.")
    team: Claim | None = Field(None, description="Its team; a text, or a list of which the first known one counts.")
    limits: Claim | None = Field(None, description="Names of limits, in place of `limits`.")
    models: Claim | None = Field(None, description="Names of models, in place of `models`.")


class Issuer(Strict):
    """An outside issuer of tokens (OpenID Connect, or signed JWTs): they are accepted as keys."""

    issuer: _Text = Field(description="The claim `iss` of its tokens, to the letter.")
    audience: Audiences = Field(description="The claim `aud` must hold one of these.")
    jwks: Jwks = Field(description="The public keys that verify its tokens: a URL, or where a JWK set is kept.")
    claims: Claims = Field(Claims(), description="Which claims say what.")
    teams: dict[ClaimValue, TeamName] = Field(
        {}, description="Value of the team claim: team of this policy, the first one first. Without: the same names."
    )
    team: TeamName | None = Field(
        None,
        description="The team of clients whose token names no known one; with `claims.team`, none is 401.",
    )
    models: list[Pattern] | None = Field(
        None, description="Models that its clients may use, exact or ending in *; all by default."
    )
    limits: list[LimitName] = Field([], description="Limits that apply to each of its clients.")
    budget: BudgetNames = Field([], description="Budgets that each of its clients has for itself.")
