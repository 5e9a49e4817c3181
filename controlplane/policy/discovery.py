"""What the language says about endpoints that come and go: services that announce themselves, a file, a name."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from controlplane.policy.diagnostics import Diagnostic
from controlplane.policy.types import AddressName, Clock, Folder, Network, SecretType, Strict

_SHORTEST_MS = 1000
FORMS = ("registered", "file", "dns")


class Registration(Strict):
    """How services announce themselves with `POST /register` of the admin API."""

    token: SecretType = Field(description="The bearer token that they send. It opens no other route.")
    ttl: Clock = Field(30_000, description="How long one stays that is not heard of any more, at most.")
    networks: list[Network] = Field(
        [], description="IP addresses and networks that they may announce; any address by default."
    )


class ByRegistration(Strict):
    """Endpoints are services that announce themselves."""

    registered: Registration = Field(description="What a service needs to announce itself.")


class ByFile(Strict):
    """Endpoints are listed in a file that another program writes."""

    file: Folder = Field(description="Its path, relative to the policy. Edits of the file are followed.")


class ByName(Strict):
    """Endpoints are all the addresses of a name."""

    dns: AddressName = Field(description="The name to look up, and the port.")
    refresh: Clock | None = Field(None, description="How often to look it up; by default when its answer is stale.")


def _one_form(value: Any) -> Any:
    if not isinstance(value, dict) or sum(form in value for form in FORMS) != 1:
        expected = "{registered: {token: {env: NAME}}}, {file: PATH} or {dns: NAME:PORT}"
        message = "`discover` has exactly one of `registered`, `file` and `dns`"
        raise PydanticCustomError("invalid-discovery", message, {"expected": expected})
    return value


def _form(value: Any) -> str:
    return next(f"<{form}>" for form in FORMS if (form in value if isinstance(value, dict) else hasattr(value, form)))


Discovery: TypeAlias = ByRegistration | ByFile | ByName
DiscoverySpec: TypeAlias = Annotated[
    Annotated[
        Annotated[ByRegistration, Tag("<registered>")]
        | Annotated[ByFile, Tag("<file>")]
        | Annotated[ByName, Tag("<dns>")],
        Discriminator(_form),
    ],
    BeforeValidator(_one_form),
]


def check_discovery(
    found: Discovery, written: Mapping[str, Any], name: str, error: Callable[..., Diagnostic]
) -> Iterator[Diagnostic]:
    """Judges an entry of `providers` with the discovery `found` in it; `written` is the entry as it stands there."""
    path = ("providers", name, "discover")
    if "endpoints" in written:
        message = "the endpoints come from one place"
        yield error("two-sources", message, path, "`endpoints` or `discover`", "remove one of the two")
    if "base_url" not in written:
        message = "what is discovered are addresses only"
        hint = "base_url says the scheme, the path, and the host that requests name: http://farm.internal/v1"
        yield error("discovery-without-url", message, path, "`base_url` beside `discover`", hint)
    if isinstance(found, ByRegistration) and found.registered.ttl < _SHORTEST_MS:
        message = "heartbeats would come more often than three times a second"
        yield error("out-of-range", message, (*path, "registered", "ttl"), "at least 1s")
    if isinstance(found, ByName) and found.refresh is not None and found.refresh < _SHORTEST_MS:
        message = "a name would be looked up more often than every second"
        yield error("out-of-range", message, (*path, "refresh"), "at least 1s")
