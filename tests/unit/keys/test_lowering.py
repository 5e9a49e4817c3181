"""What of the token filters needs no Envoy to be judged."""

from dataclasses import replace

import pytest

from controlplane.xds import tokens
from controlplane.xds.tokens import Issuer, Membership

CORP = Issuer("corp", "https://corp.example", ("gateway",), '{"keys": []}', Membership("corp:"))


def test_resources_do_not_depend_on_the_order_of_revocations() -> None:
    one, other = (
        tokens.revocations(jtis).SerializeToString(deterministic=True) for jtis in (["a", "b"], ["b", "a", "b"])
    )
    assert one == other


def test_without_tokens_nothing_is_asked() -> None:
    assert not tokens.authentication(None, ()).rules


def test_only_what_is_issued_is_looked_for_in_all_headers() -> None:
    config = tokens.authentication('{"keys": []}', (CORP,))
    assert sorted(config.providers) == ["issued/api-key", "issued/authorization", "issued/x-api-key", "outside/corp"]
    assert len(config.rules) == 4
    assert sorted(tokens.authentication(None, (CORP,)).providers) == ["outside/corp"]


def test_issuers_must_differ() -> None:
    with pytest.raises(ValueError, match="differ"):
        tokens.authentication(None, (CORP, replace(CORP, name="again")))
    with pytest.raises(ValueError, match="differ"):
        tokens.authentication("{}", (replace(CORP, issuer="headgate"),))


def test_an_issuer_that_lets_nobody_in_is_refused() -> None:
    with pytest.raises(ValueError, match="lets nobody in"):
        replace(CORP, others=None)
    with pytest.raises(ValueError, match="which claim"):
        replace(CORP, teams=(("a", Membership()),))
