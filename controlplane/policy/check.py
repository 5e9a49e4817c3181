"""Policy text -> checked Policy, or everything that is wrong with it. Pure: the reader of secrets is passed in."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from controlplane.policy.check_caches import check_caches, check_redis
from controlplane.policy.check_guards import check_guards
from controlplane.policy.check_launch import check_launches, served
from controlplane.policy.check_rules import check_rules
from controlplane.policy.diagnostics import Diagnostic, PolicyError, Severity
from controlplane.policy.discovery import check_discovery
from controlplane.policy.document import Document, Path
from controlplane.policy.experiments import check_experiments
from controlplane.policy.grammar import Address, is_ip
from controlplane.policy.language import SECTIONS, Gateway, Policy
from controlplane.policy.load import LoadCache, load
from controlplane.policy.onnx import OnnxProvider
from controlplane.policy.outside import check_issuers
from controlplane.policy.place import Place
from controlplane.policy.providers import BedrockProvider, RemoteProvider
from controlplane.policy.references import Models, check_accounts, check_keys, check_limits, check_tokenizers
from controlplane.policy.secrets import Secret, SecretRef, Secrets
from controlplane.policy.structure import Structure

Places = Callable[[Path], Place]

_MONTH_DAYS = 32  # a month, and a day that may have begun elsewhere
_WITH_LINES = {"tls", "jwks"}  # below these, secrets are files of several lines
_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - to compare with, not to listen on


@dataclass(frozen=True, slots=True)
class Checked:
    """`policy` is None exactly if there is an error among the diagnostics, which are in the order of the file."""

    policy: Policy | None
    diagnostics: tuple[Diagnostic, ...]
    places: Places


def check(text: str | bytes, file: str, cache: LoadCache | None = None) -> Checked:
    """Checks everything that the text alone can tell. `cache` makes the next check of a similar text cheap."""
    try:
        document = load(text, file, cache)
    except PolicyError as error:
        return Checked(None, error.diagnostics, lambda path: Place(file, 1, 1, path))
    structure = Structure(document, cache)
    gateway, sections = structure.check()
    found = [*document.problems, *structure.diagnostics]
    written = {name: document.data.get(name) for name in SECTIONS}
    # Names are looked up among what is written, right or wrong: one error should not look like two.
    names = {name: of if isinstance(of, dict) else {} for name, of in written.items()}
    closed = {name: known for name, told in names["providers"].items() if (known := _closed(told)) is not None}
    closed |= served(sections.get("providers", {}))
    models = Models(document, names["providers"], names["models"], sections.get("models", {}), closed)
    resolved = models.resolve()
    keys = sections.get("keys", {})
    found += models.diagnostics
    found += check_keys(document, keys, names["models"])
    found += check_accounts(document, gateway, sections, names)
    found += check_limits(document, gateway, sections, names)
    found += check_issuers(document, sections.get("issuers", {}), names)
    found += check_tokenizers(document, sections.get("tokenizers", {}), resolved)
    found += check_rules(document, structure.rules, names)
    found += check_guards(document, structure.rules, names["webhooks"], gateway.rule_timeout)
    found += check_experiments(document, gateway, sections.get("providers", {}))
    found += check_launches(document, sections.get("providers", {}))
    nobody = all(document.data.get(section, {}) == {} for section in ("keys", "issuers"))
    redis = gateway.redis is not None
    found += check_caches(document, structure.rules, names["models"], redis=redis, nobody=nobody)
    found += check_redis(document, gateway, sections, structure.rules)
    found += _semantics(document, gateway, sections.get("providers", {}), open_to_all=nobody)
    ordered = tuple(sorted(dict.fromkeys(found), key=lambda d: (d.place is None, d.place)))
    if any(d.severity is Severity.ERROR for d in ordered):
        return Checked(None, ordered, document.place)
    others: dict[str, Any] = {
        name: sections.get(name, {}) for name in SECTIONS if name not in ("providers", "models", "keys")
    }
    rules = tuple(structure.rules.values())
    policy = Policy(gateway, sections["providers"], resolved, keys, **others, rules=rules, written=document.data)
    return Checked(policy, ordered, document.place)


def _closed(provider: Any) -> Collection[str] | None:
    """The models of a provider that has no others, as they are written: right or wrong."""
    models = provider.get("models") if isinstance(provider, dict) and provider.get("kind") == "onnx" else None
    return models if isinstance(models, dict) else None


def _semantics(
    document: Document, gateway: Gateway, providers: Mapping[str, Any], *, open_to_all: bool
) -> Iterable[Diagnostic]:
    def error(code: str, message: str, path: Path, expected: str, hint: str | None = None) -> Diagnostic:
        return Diagnostic(Severity.ERROR, code, message, document.place(path), expected, hint=hint)

    if open_to_all:
        message = "the policy has no keys: whoever reaches the gateway may use every model"
        yield Diagnostic(Severity.WARNING, "open-gateway", message, document.place(()), hint="add `keys`")
    admin = gateway.admin
    if not admin.listen.loopback and admin.token is None and not admin.users:
        yield error(
            "admin-without-token", "the admin API would be open to the network", ("gateway", "admin"),
            "a loopback address, or a token or users", "write admin: {listen: ADDRESS, token: {env: NAME}}",
        )  # fmt: skip
    if not is_ip(gateway.listen.host):
        message = f"`{gateway.listen.host}` is a name, and Envoy listens at addresses"
        expected = "an IP address and a port, such as 127.0.0.1:8080, or 0.0.0.0:8080 for all addresses"
        yield error("invalid-value", message, ("gateway", "listen"), expected)
    if _overlap(gateway.listen, gateway.admin.listen):
        yield error(
            "same-address", "clients and the admin API share one address", ("gateway", "admin"), "two addresses"
        )
    keep, kept = gateway.retention, ("gateway", "retention")
    if not keep.records <= keep.minutes <= keep.hours:
        message = (
            f"records {keep.records}d, minutes {keep.minutes}d, hours {keep.hours}d: the finer outlives the coarser"
        )
        yield error("retention-order", message, kept, "records at most as long as minutes, minutes as hours")
    if keep.minutes < _MONTH_DAYS:
        message = f"budgets of a month could not be counted from {keep.minutes} days"
        yield error("retention-order", message, (*kept, "minutes"), f"at least {_MONTH_DAYS}d")
    if gateway.cors and gateway.cors.credentials and "*" in gateway.cors.origins:
        yield error(
            "cors-any-with-credentials", "credentials from any origin are refused by browsers",
            ("gateway", "cors", "credentials"), "exact origins, or no credentials",
        )  # fmt: skip
    for name, user in admin.users.items():
        if user.team is not None and user.organization is not None:
            message = "a user is for a team, for an organization, or for the whole gateway"
            yield error("two-scopes", message, ("gateway", "admin", "users", name), "`team`, `organization` or neither")
    yield from _providers(document, providers, error)


def _providers(
    document: Document, providers: Mapping[str, Any], error: Callable[..., Diagnostic]
) -> Iterable[Diagnostic]:
    for name, provider in providers.items():
        if isinstance(provider, OnnxProvider):
            told = document.data["providers"][name].get("memory", {})
            if len(provider.memory) < len(told):
                message = "a device stands here twice: `cuda` is `cuda:0`"
                yield error("duplicate-item", message, ("providers", name, "memory"), "each device once")
        if isinstance(provider, RemoteProvider):
            written = document.data["providers"][name]
            yield from _provider(name, provider, len(written.get("headers", {})), error)
            if provider.discover is not None:
                yield from check_discovery(provider.discover, written, name, error)


def _provider(
    name: str, provider: RemoteProvider, headers: int, error: Callable[..., Diagnostic]
) -> Iterable[Diagnostic]:
    """`headers` is how many were written: names that differ in case only have become one."""
    path = ("providers", name)
    if provider.tls is not None:
        if provider.base_url is not None and provider.base_url.scheme != "https":
            yield error("tls-without-https", "TLS settings for a plain http URL", (*path, "tls"), "an https base_url")
        if (provider.tls.cert is None) != (provider.tls.key is None):
            yield error("half-a-certificate", "a client certificate needs both", (*path, "tls"), "`cert` and `key`")
    if isinstance(provider, BedrockProvider) and provider.api_key and provider.credentials:
        message = "requests are signed with `credentials`, or bear `api_key`"
        yield error("two-credentials", message, (*path, "credentials"), "one of the two")
    if len(provider.headers) < headers:
        message = "two names differ in case only, and headers know no case"
        yield error("duplicate-item", message, (*path, "headers"), "each header once")
    endpoints = provider.endpoints or []
    for number, address in enumerate(endpoints):
        if address in endpoints[:number]:
            message = f"`{address}` stands here twice"
            yield error("duplicate-item", message, (*path, "endpoints", number), "each endpoint once")
    if len({is_ip(address.host) for address in endpoints}) > 1:
        message = "IP addresses and host names are mixed"
        yield error("mixed-endpoints", message, (*path, "endpoints"), "only IP addresses, or only host names")


def _overlap(one: Address, other: Address) -> bool:
    """Whether two listeners get into each other's way: the same port, and a host that holds the other."""
    return one.port == other.port and (one.host == other.host or bool(_EVERYWHERE & {one.host, other.host}))


def secret_refs(policy: Policy) -> tuple[tuple[SecretRef, Path], ...]:
    """Every reference to a secret, with the path where it stands."""
    found = [*_refs(policy.gateway, ("gateway",))]
    for name, provider in policy.providers.items():
        found += _refs(provider, ("providers", name))
    found += [(key.secret, ("keys", name, "secret")) for name, key in policy.keys.items()]
    for name, issuer in policy.issuers.items():
        found += _refs(issuer, ("issuers", name))
    for name, webhook in policy.webhooks.items():
        found += _refs(webhook, ("webhooks", name))
    return tuple(found)


def _refs(model: BaseModel, path: Path) -> Iterable[tuple[SecretRef, Path]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, SecretRef):
            yield value, (*path, name)
        elif isinstance(value, BaseModel):
            yield from _refs(value, (*path, name))
        elif isinstance(value, dict):
            for key, each in value.items():
                if isinstance(each, BaseModel):
                    yield from _refs(each, (*path, name, key))
                elif isinstance(each, SecretRef):
                    yield each, (*path, name, key)


@dataclass(frozen=True, slots=True)
class _Unread:
    """Why there is no value, without a word of it."""

    reason: str


def resolve(
    refs: Iterable[tuple[SecretRef, Path]], read: Callable[[SecretRef], str], places: Places
) -> tuple[Secrets, tuple[Diagnostic, ...]]:
    """Reads every secret once. What cannot be read, is empty or shared by two keys is told at its reference.

    `read` gives a secret's value, or raises LookupError, OSError or ValueError with the reason.
    """
    read_once: dict[SecretRef, str | _Unread] = {}
    secrets: dict[SecretRef, Secret] = {}
    problems: list[Diagnostic] = []
    owners: dict[tuple[str | int, str], Path] = {}
    for ref, path in refs:
        told = read_once.get(ref)
        if told is None:
            told = read_once[ref] = _read(ref, read)
        value = _usable(told, lines=not _WITH_LINES.isdisjoint(path))
        if isinstance(value, _Unread):
            problems.append(_absent(ref, value, places(path)))
            continue
        secrets[ref] = Secret(value)
        if _stands_for(path) and (first := owners.setdefault((path[0], value), path)) != path:
            message = f"{_bearer(first)} and {_bearer(path)} have the same secret"
            expected = "a secret of its own"
            problems.append(Diagnostic(Severity.ERROR, "shared-secret", message, places(path), expected))
        if path[2:3] == ("discover",) and (other := owners.get(("gateway", value))):
            message = f"{_bearer(other)} and the services of `{path[1]}` have the same secret"
            problems.append(Diagnostic(Severity.ERROR, "shared-secret", message, places(path), "a secret of its own"))
    return secrets, tuple(problems)


def _stands_for(path: Path) -> bool:
    """Whether a secret at a path stands for somebody, and may stand for nobody else."""
    return path[0] == "keys" or path == ("gateway", "admin", "token") or path[:3] == ("gateway", "admin", "users")


def _bearer(path: Path) -> str:
    if path[0] == "keys":
        return f"the key `{path[1]}`"
    return "the administrator" if path[2] == "token" else f"the user `{path[3]}`"


def _read(ref: SecretRef, read: Callable[[SecretRef], str]) -> str | _Unread:
    try:
        return read(ref)
    except UnicodeError:
        return _Unread("it is not text")
    except OSError as error:
        return _Unread(error.strerror or type(error).__name__)
    except (LookupError, ValueError) as error:
        return _Unread(str(error.args[0]) if error.args else type(error).__name__)


def _usable(value: str | _Unread, *, lines: bool) -> str | _Unread:
    """A value without a file's last line end, and fit for an HTTP header; TLS material (`lines`) as it is."""
    if isinstance(value, _Unread):
        return value
    if not value.strip():
        return _Unread("it is empty")
    if lines:
        return value
    value = value.removesuffix("\n").removesuffix("\r")
    if not value.isprintable() or not value.isascii() or value != value.strip():
        return _Unread("it has characters that no HTTP header can carry, or spaces around it")
    return value


def _absent(ref: SecretRef, unread: _Unread, place: Place) -> Diagnostic:
    hint = f"export {ref.name}=..." if ref.kind == "env" else "the file's path is relative to the policy"
    message = f"{ref}: {unread.reason}"
    return Diagnostic(Severity.ERROR, "absent-secret", message, place, "a secret that can be read", hint=hint)
