"""What of the token filters needs no Envoy to be judged."""

from controlplane.xds import tokens


def test_resources_do_not_depend_on_the_order_of_revocations() -> None:
    one, other = (
        tokens.revocations(jtis).SerializeToString(deterministic=True) for jtis in (["a", "b"], ["b", "a", "b"])
    )
    assert one == other


def test_an_issued_key_is_looked_for_wherever_clients_put_keys() -> None:
    config = tokens.authentication('{"keys": []}')
    assert sorted(config.providers) == ["issued/api-key", "issued/authorization", "issued/x-api-key"]
    assert len(config.rules) == 3
