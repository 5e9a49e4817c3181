"""The file of prices that a policy names: read, and what is wrong with it. Pure: the reader of files is passed in."""

import json
from collections.abc import Callable
from functools import lru_cache

from controlplane.policy.check import Places
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.language import Policy
from controlplane.policy.secrets import SecretRef
from extproc.usage.price_catalog import Catalog, catalog_from_json

_HINT = "make it with `ctl prices import FILE`"


def imported(
    policy: Policy, read: Callable[[SecretRef], str], places: Places
) -> tuple[Catalog | None, tuple[Diagnostic, ...]]:
    """The catalog in the file `gateway.prices`, None without one; and the diagnostic where it cannot be used."""
    name = policy.gateway.prices
    if name is None:
        return None, ()

    def error(code: str, message: str, expected: str) -> tuple[None, tuple[Diagnostic, ...]]:
        place = places(("gateway", "prices"))
        return None, (Diagnostic(Severity.ERROR, code, message, place, expected, hint=_HINT),)

    try:
        return _parsed(read(SecretRef("file", name))), ()
    except (OSError, LookupError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        return error("absent-prices", f"{name}: {reason}", "a file of prices, its path relative to the policy")
    except (ValueError, ArithmeticError, RecursionError) as problem:
        return error("invalid-prices", f"{name}: {str(problem)[:200]}", "a file of prices in the form of Headgate")


@lru_cache(maxsize=1)  # it is large, and most edits leave it alone
def _parsed(text: str) -> Catalog:
    return catalog_from_json(json.loads(text))
