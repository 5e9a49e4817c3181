"""What `ctl` can do with a policy file alone, without a running control plane."""

import asyncio
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from controlplane.admin import views
from controlplane.audit.entry import Head
from controlplane.audit.read import read, since_when
from controlplane.audit.verify import head, verify
from controlplane.compiling import Compiled, Compiler
from controlplane.metadata.rows import show
from controlplane.plan import explain, request_explained
from controlplane.plan.build import plan
from controlplane.plan.ir import Plan
from controlplane.policy.check import check
from controlplane.policy.diagnostics import Diagnostic, PolicyError
from controlplane.policy.endpoints import PATHS
from controlplane.policy.load import LoadCache, not_utf8
from controlplane.policy.place import path_text
from controlplane.policy.prices import imported
from controlplane.policy.structure import nearest
from controlplane.runtime.changes import difference, utc_now, verdict
from controlplane.runtime.interpreters import interpreter_prober
from controlplane.runtime.listings import warnings
from controlplane.runtime.surroundings import fixture_reader, folder_lister, secret_reader, surroundings
from controlplane.xds.accounting import lower
from extproc.usage.prices import price_to_json


class UseError(Exception):
    """What was asked cannot be done with what was given. Its text says why."""


@dataclass(frozen=True, slots=True)
class Validated:
    view: dict[str, Any]
    diagnostics: tuple[Diagnostic, ...]
    text: str


def text_of(policy: Path) -> str:
    """The policy's text. Raises OSError, PolicyError."""
    try:
        return policy.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(error, str(policy)) from None


def compiled(policy: Path, text: str | None = None) -> Compiled:
    """Raises PolicyError, OSError."""
    base = policy.parent
    reader, lister, prober = secret_reader(base), folder_lister(base), interpreter_prober(base)
    compiler = Compiler(
        str(policy), reader, surroundings(None), LoadCache(),
        files=lister, fixtures=fixture_reader(base), probe=prober,
    )  # fmt: skip
    return compiler.compile(text_of(policy) if text is None else text, utc_now())


def planned(policy: Path) -> Plan:
    """What a policy means: no secret is needed for that. Raises PolicyError, OSError."""
    checked = check(text_of(policy), str(policy))
    if checked.policy is None:
        raise PolicyError(checked.diagnostics)
    prices, wrong = imported(checked.policy, secret_reader(policy.parent), checked.places)
    if wrong:
        raise PolicyError(wrong)
    return plan(checked.policy, now=utc_now(), imported=prices)


def text_at(error: PolicyError) -> str:
    """The policy that an error is about, as far as it can be read."""
    files = {each.place.file for each in error.diagnostics if each.place is not None}
    with suppress(OSError, UnicodeDecodeError):
        return Path(files.pop()).read_text(encoding="utf-8") if len(files) == 1 else ""
    return ""


def validate(policy: Path) -> Validated:
    """All diagnostics, and Envoy's verdict if there is no error."""
    try:
        text = text_of(policy)
        made = compiled(policy, text)
    except PolicyError as error:
        view = {"valid": False, "diagnostics": [views.diagnostic(d) for d in error.diagnostics], "envoy": None}
        return Validated(view, error.diagnostics, text_at(error))
    word = asyncio.run(verdict(made))
    warned = (*made.warnings, *warnings(made.policy, policy.parent))
    found = [views.diagnostic(d) for d in warned]
    return Validated({"valid": word.ok, "diagnostics": found, "envoy": word.message or "accepted"}, warned, text)


def diff(policy: Path) -> dict[str, Any]:
    """The difference to the policy that was live last, as the state folder records it; to nothing if there is none."""
    from controlplane.revisions.store import Store  # noqa: PLC0415 - takes half a second, which other commands save

    after = compiled(policy)
    history = policy.parent / after.policy.gateway.state / "revisions.db"
    last = None
    if history.exists():
        with Store.open(history, recover=False) as store:
            last = store.current()
    before = compiled(policy, last.policy_text) if last else None
    return {"revision": last.number if last else None, **views.difference(difference(before, after))}


def server_of(policy: Path) -> str:
    """Where the control plane of this policy answers: its gateway.admin. Raises PolicyError, OSError."""
    checked = check(text_of(policy), str(policy))
    if checked.policy is None:
        raise PolicyError(checked.diagnostics)
    listen = checked.policy.gateway.admin.listen
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(listen.host, listen.host)  # noqa: S104 - where to connect
    return f"http://{host}:{listen.port}"


def models(policy: Path) -> list[dict[str, Any]]:
    return views.models(planned(policy))


def model(policy: Path, name: str) -> dict[str, Any]:
    """What is known of a model without asking its providers. Raises UseError for one that there is not."""
    made = planned(policy)
    found = show(made, name, {})
    if found is None:
        near = nearest(name, tuple(route.name for route in made.routes))
        raise UseError(f"the policy has no model {name!r}{f'; the nearest name is {near}' if near else ''}")
    return found


def decisions(policy: Path) -> list[dict[str, Any]]:
    made = planned(policy)
    return [{**asdict(d), "path": path_text(d.path), "tier": int(d.tier)} for d in explain.decisions(made)]


def answer(policy: Path, request: Path | None, key: str | None, path: str) -> dict[str, Any]:
    """The way of a request. Raises UseError for a request, a key or an endpoint that there is not."""
    if path not in PATHS:
        raise UseError(f"{path!r} is no endpoint that carries a model: {', '.join(PATHS)}")
    made = planned(policy)
    raw = request.read_bytes() if request else b""
    try:
        body = json.loads(raw) if raw else {}
    except ValueError as error:
        raise UseError(f"{request} is not JSON: {error}") from error
    model = body.get("model") if isinstance(body, dict) else None
    try:
        found = request_explained.request(made, model if isinstance(model, str) else None, key, path, raw)
    except KeyError:
        names = ", ".join(k.name for k in made.keys[:10]) or "none"
        raise UseError(f"the policy has no valid key named {key!r}; it has: {names}") from None
    groups = [[dict(zip(("provider", "model", "weight"), t, strict=True)) for t in g] for g in found.groups]
    asked = dict.fromkeys((provider, model) for group in found.groups for provider, model, _ in group)
    return {**asdict(found), "groups": groups, "prices": _priced(made, asked)}


def prices(policy: Path, model: str) -> list[dict[str, Any]]:
    """What a model costs at each provider of a policy, as its provider names it."""
    made = planned(policy)
    return _priced(made, ((provider, model) for provider in made.upstreams))


def _priced(plan: Plan, asked: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Providers and models with their prices, as the collector looks them up."""
    accounting = lower(plan)
    book = accounting.price_book()
    families = {of.name: accounting.catalog_family[cluster] for cluster, of in accounting.clusters.items()}
    rows = []
    for provider, model in asked:
        found = book.find(model, families[provider], provider)
        price, source = (price_to_json(found.price), found.source) if found else (None, None)
        rows.append({"provider": provider, "model": model, "price": price, "source": source})
    return rows


def verify_audit(folder: Path, kept: str) -> dict[str, Any]:
    """Raises UseError for a folder without a log, or a head that is none."""
    _expect_audit(folder)
    try:
        found = verify(folder, Head.parse(kept) if kept else None)
    except ValueError as error:
        raise UseError(str(error)) from None
    if isinstance(found, list):
        return {"entries": None, "head": None, "problems": [asdict(problem) for problem in found]}
    return {"entries": found.entries, "head": str(found.head), "problems": []}


def audit_entries(folder: Path, action: str, since: str, limit: int) -> dict[str, Any]:
    """Entries, newest first. Raises UseError, and OSError when the log cannot be read."""
    _expect_audit(folder)
    try:
        page = read(folder, since=since_when(since, utc_now()), action=action, limit=limit)
    except ValueError as error:
        raise UseError(f"--since {since}: {error}") from None
    return views.audit_page(page)


def audit_head(folder: Path) -> str:
    """Raises UseError for a folder without a log, OSError when it cannot be read."""
    _expect_audit(folder)
    return str(head(folder))


def _expect_audit(folder: Path) -> None:
    if not folder.is_dir():
        raise UseError(f"there is no audit log at {folder}: name the folder `audit` of the gateway's state folder")
