"""A file that lists a provider's endpoints: its text -> endpoints, or everything that is wrong with it. Pure.

endpoints:
  - 10.0.0.7:8000
  - {address: "10.0.0.8:8000", weight: 2, models: [llama-3.3-70b]}
"""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter

from controlplane.discovery.found import Found
from controlplane.plan.ir import Endpoint
from controlplane.policy.diagnostics import Diagnostic, PolicyError, Severity
from controlplane.policy.document import Document
from controlplane.policy.load import load
from controlplane.policy.structure import Structure
from controlplane.policy.types import EndpointType, Strict, UpstreamModel

_WHOLE_FILE = {"empty-policy": "the file is empty", "not-a-mapping": "the file is a list or a single value"}


class Entry(Strict):
    """One endpoint."""

    address: EndpointType
    weight: int = Field(1, ge=1, le=10_000)
    models: list[UpstreamModel] = Field([])


class Listing(Strict):
    """The whole file."""

    endpoints: list[Annotated[Entry, BeforeValidator(lambda v: {"address": v} if isinstance(v, str) else v)]]


_LISTING: TypeAdapter[Any] = TypeAdapter(Listing)


def read(text: str | bytes, file: str) -> tuple[Found, ...]:
    """The endpoints of a file, by their addresses. Raises PolicyError with every diagnostic."""
    try:
        document = load(text, file)
    except PolicyError as error:
        raise PolicyError(_about_listings(error)) from None
    structure = Structure(document, None)
    listing = structure.validated(_LISTING, document.data, (), Listing)
    problems = [*document.problems, *structure.diagnostics]
    if listing is not None:
        problems += _twice(listing, document)
    if listing is None or problems:
        raise PolicyError(problems)
    found = (_found(entry) for entry in listing.endpoints)
    return tuple(sorted(found, key=lambda each: (each.endpoint.host, each.endpoint.port)))


def unusable(why: str) -> Diagnostic:
    """That a file cannot be used now, for who validates a policy: it may be written later."""
    hint = "the gateway starts all the same, and follows the file"
    return Diagnostic(Severity.WARNING, "wrong-endpoints", why, hint=hint)


def _found(entry: Entry) -> Found:
    endpoint = Endpoint(entry.address.host, entry.address.port)
    return Found(endpoint, entry.weight, entry.weight, tuple(entry.models))


def _twice(listing: Listing, document: Document) -> Iterator[Diagnostic]:
    seen = set()
    for number, entry in enumerate(listing.endpoints):
        if entry.address in seen:
            place = document.place(("endpoints", number))
            message = f"`{entry.address}` stands here twice"
            yield Diagnostic(Severity.ERROR, "duplicate-item", message, place, "each endpoint once")
        seen.add(entry.address)


def _about_listings(error: PolicyError) -> Iterator[Diagnostic]:
    """What the loader says of policies, said of this file."""
    for each in error.diagnostics:
        if each.code in _WHOLE_FILE:
            message, expected = _WHOLE_FILE[each.code], "`endpoints:` and a list"
            yield Diagnostic(Severity.ERROR, "no-endpoints", message, each.place, expected)
        else:
            yield each
