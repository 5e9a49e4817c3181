"""Secrets of webhooks: what only their values can tell."""

import hashlib
from collections.abc import Iterator

from controlplane.policy import grammar
from controlplane.policy.check import Places
from controlplane.policy.check_guards import asked
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.language import Policy
from controlplane.policy.secrets import SecretRef, Secrets
from extproc.usage.webhooks import endpoints
from extproc.usage.webhooks.body import signing_key
from extproc.usage.webhooks.endpoints import Endpoint


def check_webhooks(policy: Policy, secrets: Secrets, places: Places) -> Iterator[Diagnostic]:
    """Signing secrets and secret URLs must have their form. No message quotes them."""

    def error(message: str, name: str, field: str, expected: str, hint: str | None = None) -> Diagnostic:
        place = places(("webhooks", name, field))
        return Diagnostic(Severity.ERROR, "invalid-webhook", message, place, expected, hint=hint)

    for name, webhook in policy.webhooks.items():
        if webhook.secret in secrets:
            try:
                signing_key(secrets[webhook.secret].reveal())
            except ValueError:
                message, expected = "this is no secret of a webhook", "whsec_ and the base64 of 24 to 64 random bytes"
                yield error(message, name, "secret", expected, 'make one: echo "whsec_$(openssl rand -base64 32)"')
        if isinstance(webhook.url, SecretRef) and webhook.url in secrets:
            try:
                grammar.webhook_url(secrets[webhook.url].reveal())
            except ValueError as problem:
                yield error("this is no URL of a webhook", name, "url", str(problem))


def endpoint(name: str, policy: Policy, secrets: Secrets) -> Endpoint:
    """A webhook of a checked policy, with its secrets."""
    webhook = policy.webhooks[name]
    url = webhook.url if isinstance(webhook.url, str) else secrets[webhook.url].reveal()
    return Endpoint(name, url, secrets[webhook.secret].reveal(), tuple(dict.fromkeys(webhook.events)))


def hooks(policy: Policy, secrets: Secrets) -> str:
    """What the workers of rules are told of the webhooks that rules ask, secrets included; "" where they ask none."""
    named = asked(policy.rules)
    return endpoints.dump(endpoint(name, policy, secrets) for name in named) if named else ""


def digest(hooks: str) -> str:
    """What the settings call it by. It tells nothing of it: the secrets are 24 random bytes at least."""
    return hashlib.blake2b(hooks.encode(), digest_size=16).hexdigest() if hooks else ""
