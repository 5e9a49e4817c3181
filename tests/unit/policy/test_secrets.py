"""References become values, once each; what is wrong with one is told at the reference and never quotes it."""

from collections.abc import Callable, Mapping

import pytest

from controlplane.policy.check import check, resolve, secret_refs
from controlplane.policy.diagnostics import Diagnostic
from controlplane.policy.place import path_text
from controlplane.policy.render import render
from controlplane.policy.secrets import SecretRef, Secrets

TEXT = """\
version: 1
gateway:
  admin: {listen: 127.0.0.1:9800, token: {env: TOKEN}}
  tls: {cert: {file: server.pem}, key: {file: server.key}}
providers:
  p: {kind: openai, api_key: {env: API}, tls: {ca: {file: ca.pem}}}
models: {m: p}
keys:
  one: {secret: {env: ONE}}
  two: {secret: {file: two.txt}}
"""
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
VALUES: Mapping[str, str | Exception] = {
    "TOKEN": "t0ken", "server.pem": PEM, "server.key": PEM, "API": "sk-api", "ca.pem": PEM, "ONE": "sk-one",
    "two.txt": "sk-two\n",
}  # fmt: skip


def resolved(**changed: str | Exception) -> tuple[Secrets, tuple[Diagnostic, ...]]:
    checked = check(TEXT, "policy.yaml")
    assert checked.policy is not None
    return resolve(
        secret_refs(checked.policy),
        reader(VALUES | {n.replace("__", "."): v for n, v in changed.items()}),
        checked.places,
    )


def reader(values: Mapping[str, str | Exception]) -> Callable[[SecretRef], str]:
    def read(ref: SecretRef) -> str:
        value = values[ref.name]
        if isinstance(value, Exception):
            raise value
        return value

    return read


def test_every_reference_is_read_once() -> None:
    secrets, problems = resolved()
    assert problems == ()
    assert {str(ref): secret.reveal() for ref, secret in secrets.items()} == {
        "env:TOKEN": "t0ken", "file:server.pem": PEM, "file:server.key": PEM, "env:API": "sk-api",
        "file:ca.pem": PEM, "env:ONE": "sk-one", "file:two.txt": "sk-two",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "code", "path"),
    [
        ({"API": LookupError("the environment variable API is not set")}, "absent-secret", "providers.p.api_key"),
        ({"two__txt": FileNotFoundError(2, "No such file or directory")}, "absent-secret", "keys.two.secret"),
        ({"two__txt": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")}, "absent-secret", "keys.two.secret"),
        ({"TOKEN": ""}, "absent-secret", "gateway.admin.token"),
        ({"TOKEN": "\n"}, "absent-secret", "gateway.admin.token"),
        ({"API": "very\nsecret"}, "absent-secret", "providers.p.api_key"),
        ({"API": "very\0secret"}, "absent-secret", "providers.p.api_key"),
        ({"API": " very secret "}, "absent-secret", "providers.p.api_key"),
        ({"API": "verysécret"}, "absent-secret", "providers.p.api_key"),
        ({"ONE": "very-secret", "two__txt": "very-secret\n"}, "shared-secret", "keys.two.secret"),
    ],
)
def test_what_cannot_be_used_is_told_at_its_reference(
    changed: dict[str, str | Exception], code: str, path: str
) -> None:
    _, (told,) = resolved(**changed)
    assert told.code == code
    assert told.place is not None
    assert path_text(told.place.path) == path
    assert "very" not in repr(told) + render(told, TEXT)


def test_a_value_refuses_to_be_printed() -> None:
    secrets, _ = resolved()
    assert "sk-" not in f"{secrets!r} {[str(secret) for secret in secrets.values()]}"
