"""Secrets -> SDS resources. Nothing else in a snapshot carries a provider's credential or a private key, but for the
keys of AWS accounts, which Envoy has in its filters alone.
"""

from collections.abc import Iterator

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2 as sds

from controlplane.plan.ir import Plan, Upstream
from controlplane.policy.secrets import SecretRef, Secrets
from controlplane.xds import names


def lower(plan: Plan, secrets: Secrets) -> Iterator[sds.Secret]:
    """Every secret that the plan's clusters and listener name."""
    for upstream in plan.reached:
        yield from _provider(upstream, secrets)
    if plan.edge.tls is not None:
        yield _certificate(names.SERVER_CERTIFICATE, plan.edge.tls.certificate, plan.edge.tls.private_key, secrets)
        if plan.edge.tls.client_ca is not None:
            yield _authority(names.CLIENT_CA, plan.edge.tls.client_ca, secrets)


def _provider(upstream: Upstream, secrets: Secrets) -> Iterator[sds.Secret]:
    if upstream.api_key is not None:
        made = sds.Secret(name=names.api_key(upstream.name))
        key = secrets[upstream.api_key].reveal()
        made.generic_secret.secret.inline_string = (
            f"Bearer {key}" if upstream.api_key_header == "authorization" else key
        )
        yield made
    if upstream.tls is not None:
        if upstream.tls.ca is not None:
            yield _authority(names.provider_ca(upstream.name), upstream.tls.ca, secrets)
        if upstream.tls.certificate is not None and upstream.tls.private_key is not None:
            name = names.provider_certificate(upstream.name)
            yield _certificate(name, upstream.tls.certificate, upstream.tls.private_key, secrets)


def _certificate(name: str, chain: SecretRef, key: SecretRef, secrets: Secrets) -> sds.Secret:
    made = sds.Secret(name=name)
    made.tls_certificate.certificate_chain.inline_string = secrets[chain].reveal()
    made.tls_certificate.private_key.inline_string = secrets[key].reveal()
    return made


def _authority(name: str, ca: SecretRef, secrets: Secrets) -> sds.Secret:
    made = sds.Secret(name=name)
    made.validation_context.trusted_ca.inline_string = secrets[ca].reveal()
    return made
