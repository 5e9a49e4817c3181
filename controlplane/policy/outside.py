"""Outside issuers checked: what they name must exist, and the keys that are kept beside the policy must be public."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.document import Document, Path
from controlplane.policy.issuers import Issuer, JwksUrl
from controlplane.policy.place import Place
from controlplane.policy.references import Matches
from controlplane.policy.secrets import SecretRef, Secrets
from controlplane.policy.structure import nearest

# Members of a private key (RFC 7518, section 6); a public key set has none, and no symmetric key either.
_PRIVATE = ("d", "k")
_SOONEST_MS = 1000


def check_issuers(
    document: Document, issuers: Mapping[str, Issuer], written: Mapping[str, Mapping[str, Any]]
) -> Iterator[Diagnostic]:
    """Names of teams, limits and budgets; each `issuer` once; keys over a protected way. `written`: as in check."""

    def error(code: str, message: str, path: Path, expected: str, near: str | None = None) -> Diagnostic:
        return Diagnostic(Severity.ERROR, code, message, document.place(path), expected, near)

    first: dict[str, str] = {}
    matches = Matches(written["models"] if any(issuer.models for issuer in issuers.values()) else ())
    for name, issuer in issuers.items():
        path: Path = ("issuers", name)
        for kind, section, named, where in _references(issuer):
            if named not in written[section]:
                near = nearest(named, tuple(written[section]))
                message = f"there is no {kind} `{named}`"
                yield error("unknown-name", message, (*path, *where), f"a {kind} of this policy", near)
        for field, entries in (("limits", issuer.limits), ("budget", issuer.budget)):
            for number, entry in enumerate(entries):
                if entry in entries[:number]:
                    yield error("duplicate-item", f"`{entry}` stands here twice", (*path, field, number), "each once")
        for number, pattern in enumerate(issuer.models or ()):
            if not matches(pattern):
                message, place = f"`{pattern}` matches no model of this policy", (*path, "models", number)
                near = nearest(pattern, tuple(written["models"]))
                expected = "a model of this policy"
                yield Diagnostic(Severity.WARNING, "matches-nothing", message, document.place(place), expected, near)
        other = first.setdefault(issuer.issuer, name)
        if other != name:
            message = (
                f"the issuers `{other}` and `{name}` have the same `issuer`, so nobody can tell their tokens apart"
            )
            yield error("duplicate-item", message, (*path, "issuer"), "each `iss` once")
        if issuer.teams and issuer.claims.team is None:
            message = "`teams` says what a claim means, but not which"
            yield error("missing-field", message, (*path, "teams"), "`team` in `claims`, such as {team: groups}")
        if isinstance(issuer.jwks, JwksUrl):
            yield from _remote(issuer.jwks, path, error)


def _references(issuer: Issuer) -> Iterator[tuple[str, str, str, Path]]:
    """Kind, section, name and where it stands in the issuer."""
    for value, team in issuer.teams.items():
        yield "team", "teams", team, ("teams", value)
    if issuer.team is not None:
        yield "team", "teams", issuer.team, ("team",)
    for number, limit in enumerate(issuer.limits):
        yield "limit", "limits", limit, ("limits", number)
    for number, budget in enumerate(issuer.budget):
        yield "budget", "budgets", budget, ("budget", number)


def _remote(jwks: JwksUrl, path: Path, error: Callable[..., Diagnostic]) -> Iterator[Diagnostic]:
    loopback = jwks.url.host in ("localhost", "::1") or jwks.url.host.startswith("127.")
    if jwks.url.scheme != "https" and not loopback:
        message = "whoever is between the gateway and this URL could put keys of their own in"
        yield error("keys-without-https", message, (*path, "jwks", "url"), "an https URL, or http on loopback")
    if jwks.refresh < _SOONEST_MS:
        yield error("out-of-range", "the issuer would be asked all the time", (*path, "jwks", "refresh"), "at least 1s")
    if jwks.url.scheme != "https" and jwks.ca is not None:
        yield error("tls-without-https", "`ca` for a plain http URL", (*path, "jwks", "ca"), "an https URL")


def check_key_sets(
    issuers: Mapping[str, Issuer], secrets: Secrets, places: Callable[[Path], Place]
) -> Iterator[Diagnostic]:
    """JWK sets kept beside the policy (RFC 7517) hold public keys, one at least."""
    for name, issuer in issuers.items():
        if isinstance(issuer.jwks, SecretRef) and issuer.jwks in secrets:
            problem = _key_set(secrets[issuer.jwks].reveal())
            if problem:
                place = places(("issuers", name, "jwks"))
                expected = 'a JWK set of public keys, {"keys": [...]}'
                yield Diagnostic(Severity.ERROR, "invalid-jwks", f"{issuer.jwks}: {problem}", place, expected)


def _key_set(text: str) -> str | None:
    """What is wrong with a JWK set, without a word of it."""
    try:
        found = json.loads(text)
    except ValueError:
        return "it is not JSON"
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        return "it holds no keys"
    if any(member in key for key in keys for member in _PRIVATE):
        return "it holds a private or symmetric key, with which tokens can be forged"
    return None
