"""How `ctl` shows things to people. Data comes from elsewhere; nothing is decided here."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from controlplane.cli.tables import show as _show
from controlplane.cli.tables import table as _table
from controlplane.policy.diagnostics import Diagnostic, PolicyError, Severity
from controlplane.policy.place import path_text
from controlplane.policy.render import render
from controlplane.runtime.failures import ApplyError

if TYPE_CHECKING:
    from controlplane.runtime.changes import Applied, Live

View = dict[str, Any]

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

_SIGNS = {"add": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red")}
_PROSE = ("  expected: ", "  did you mean ", "  hint: ")
_STATES = {"live": "green", "rejected": "red", "rolled-back": "yellow", "pending": "yellow"}


def diagnostics(found: Sequence[Diagnostic], text: str) -> None:
    """Every diagnostic with its place and source line, errors in red."""
    for each in found:
        colour = "red" if each.severity is Severity.ERROR else "yellow"
        head, *rest = render(each, text).split("\n")
        err.print(f"[{colour}]{escape(_folded(head))}[/]")
        for line in rest:
            err.print(escape(_folded(line) if line.startswith(_PROSE) else line))


def failed(why: str, what: str = "error") -> None:
    """An error's text, for people."""
    head, *rest = escape(_folded(f"{what}: {why}")).split("\n")
    err.print("\n".join((head.replace(what, f"[red]{what}[/]", 1), *rest)))


def _folded(text: str) -> str:
    """Between words, where a terminal would break inside them; a pipe gets every line whole."""
    if not err.is_terminal:
        return text
    lines = text.split("\n")
    return "\n".join(
        textwrap.fill(line, err.width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        for line in lines
    )


def difference(view: View) -> None:
    """Policy terms first, xDS resources below, then what it all does to traffic."""
    if not view["policy"] and not view["xds"]:
        out.print("no changes")
        return
    for change in view["policy"]:
        sign, colour = _SIGNS[change["action"]]
        out.print(f"[{colour}]{sign} {escape(change['path'])}[/]{escape(_values(change))}")
    for change in view.get("counters", ()):
        out.print(f"  {escape(change['path'])}: {change['text']}")
    if view["xds"]:
        out.print()
        table = _table("", "resource", "name", "effect on traffic", prose=["name"])
        for change in view["xds"]:
            sign, colour = _SIGNS[change["action"]]
            table.add_row(f"[{colour}]{sign}[/]", change["kind"], escape(change["name"]), change["effect"])
        _show(out, table)
    out.print(f"\nEffect on traffic: {view['effect']}.")
    _at_next_start(view["at_next_start"])


def _at_next_start(names: list[str]) -> None:
    if names:
        changed = escape(", ".join(names))
        out.print(f"[yellow]at the next start[/]: {changed} changed, which a running gateway cannot take over")


def _values(change: View) -> str:
    before, after = change["before"], change["after"]
    if change["action"] == "change":
        return f": {short(before)} -> {short(after)}"
    return f": {short(after if change['action'] == 'add' else before)}"


def short(value: Any, width: int = 60) -> str:
    """A value on one line: what is unset is left out, what is long is cut."""
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{k}: {short(v)}" for k, v in value.items() if v not in (None, [], {})) + "}"
    elif isinstance(value, list):
        text = "[" + ", ".join(short(v) for v in value) + "]"
    else:
        text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def status(view: View) -> None:
    live = view["live"]
    if live is None:
        out.print("no policy is live yet")
    else:
        opened = "  [yellow]open: no keys[/]" if live["open"] else ""
        out.print(f"[green]revision {live['revision']}[/] live since {_time(live['at'])} ({_by(live)}){opened}")
    _at_next_start(view["at_next_start"])
    if view["failure"]:
        _failure(view["failure"])
    if view["nodes"]:
        table = _table("node", "state", "acknowledged", "rejected", prose=["acknowledged", "rejected"])
        for node in view["nodes"]:
            table.add_row(*_node(node))
        _show(out, table)
    else:
        out.print("[yellow]no node is connected[/]")
    if view["endpoints"]:
        counts = ", ".join(f"{name} {count}" for name, count in view["endpoints"].items())
        out.print(f"endpoints found: {escape(counts)}  [dim]`ctl endpoints` lists them[/]")
    table = _table("process", "state", "since", "restarts", "last exit", prose=["last exit"])
    for process in view["processes"]:
        since = _time(process["since"])
        table.add_row(process["name"], process["status"], since, str(process["restarts"]), process["last_exit"] or "")
    if view["processes"]:
        _show(out, table)
    for alarm in view["alarms"]:
        out.print(f"[red]alarm[/] {escape(alarm['name'])}: {escape(alarm['message'])}", soft_wrap=True)
    _listings(view)


def _listings(view: View) -> None:
    """What providers' listings lack, and whose cannot be had."""
    for warning in view["warnings"]:
        out.print(f"[yellow]warning[/] {escape(warning['name'])}: {escape(warning['message'])}", soft_wrap=True)
    for listing in view["listings"]:
        if listing["problem"]:
            out.print(f"[dim]no new listing of {escape(listing['provider'])}: {listing['problem']}[/]", soft_wrap=True)


def _node(node: View) -> tuple[str, str, str, str]:
    state = "[green]connected[/]" if node["connected"] else "[red]gone[/]"
    behind = [t["kind"] for t in node["types"] if not t["in_sync"]]
    refused = [f"{t['kind']}: {t['rejection']['message']}" for t in node["types"] if t["rejection"]]
    acknowledged = "everything" if not behind else f"all but {', '.join(behind)}"
    return node["id"], state, acknowledged, escape("\n".join(refused))


def _failure(failure: View) -> None:
    out.print(f"[red]the last edit did not go live[/] ({failure['source']}, {_time(failure['at'])}): ", end="")
    out.print(escape(failure["message"]))
    for each in failure["diagnostics"]:
        where = f"{each['file']}:{each['line']}:{each['column']}" if each["file"] else "policy"
        out.print(escape(f"  {where}  {each['path'] or ''}: {each['message']}"))


def history(rows: list[View]) -> None:
    table = _table("revision", "state", "at", "by", "why", prose=["why"])
    for row in rows:
        colour = _STATES.get(row["state"], "dim")
        why = row["error"] or row["why"] or ""
        table.add_row(str(row["revision"]), f"[{colour}]{row['state']}[/]", _time(row["at"]), _by(row), escape(why))
    if rows:
        _show(out, table)
    else:
        out.print("no revisions yet")


def usage(view: View) -> None:
    """One line per group; what every gateway has zero of is left out."""
    rows = view["rows"]
    if not rows:
        out.print(f"no requests from {_time(view['since'])} to {_time(view['until'])}")
        return
    groups = list(rows[0])[: list(rows[0]).index("requests")]
    table = _table(*groups)
    hits = any(row["cache_hits"] for row in rows)
    counted = ("requests", "cached", "errors") if hits else ("requests", "errors")
    for name in (*counted, "input", "output", "cost $", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    names = ("requests", *(("cache_hits",) if hits else ()), "errors", "input_tokens", "output_tokens")
    for row in rows:
        latency = row["latency_ms"]
        figures = [f"{row[name]:,}" for name in names]
        cost = "unknown" if row["cost"] is None else row["cost"] + ("+" if row["unpriced"] else "")
        times = ["" if latency[p] is None else f"{latency[p]:,.0f}" for p in ("p50", "p99")]
        table.add_row(*(escape(str(row[name]) or "-") for name in groups), *figures, cost, *times)
    _show(out, table)
    if any(row["unpriced"] for row in rows):
        out.print("+ or unknown: some requests have no known price; `ctl usage --unpriced` lists their models")


def requests(view: View) -> None:
    """Single records, each with all that is known of it."""
    if not view["rows"]:
        out.print("no record has this id: requests that reached no provider have none, and old ones are gone")
    for row in view["rows"]:
        out.print(f"[bold]{escape(row['id'])}[/]  {_time(row['at'])}")
        for name, value in row.items():
            if name not in ("id", "at") and value not in (None, ""):
                out.print(escape(f"  {name}: {value}"))
        if row["cost"] is None:
            out.print("  cost: unknown")


def unpriced(view: View) -> None:
    if not view["rows"]:
        out.print("every request has a price")
        return
    table = _table("provider", "model", "served as", "requests", "input", "output")
    for row in view["rows"]:
        names = (escape(row[name]) for name in ("provider", "model", "served_model"))
        table.add_row(*names, *(f"{row[name]:,}" for name in ("requests", "input_tokens", "output_tokens")))
    _show(out, table)
    out.print("add them to `prices` in the policy: their requests to come then have a cost")


def issued(view: View) -> None:
    """The secret alone on standard output, so that it can be piped; what to know about it beside."""
    until = f", good until {_time(view['expires'])}" if view["expires"] else ""
    err.print(f"key [bold]{escape(view['name'])}[/] is live{until}. Its secret, shown this once:")
    out.print(view["secret"], soft_wrap=True, highlight=False, markup=False)
    _pending(view)


def revoked(view: View) -> None:
    out.print(f"key {escape(view['name'])} is revoked")
    _pending(view)


def _pending(view: View) -> None:
    if view["pending"]:
        err.print(f"[red]the edge does not know it yet[/], and is told as soon as it can be: {escape(view['pending'])}")


def keys(view: View) -> None:
    if not view["rows"]:
        out.print("no keys were issued yet; `ctl keys issue NAME`")
        return
    table = _table(
        "key",
        "state",
        "team",
        "models",
        "limits",
        "budget",
        "from",
        "priority",
        "issued",
        "expires",
        prose=["models", "limits", "from"],
    )
    for row in view["rows"]:
        models = "all" if row["models"] is None else ", ".join(row["models"])
        dates = ((row[name] or "never")[:10] for name in ("issued", "expires"))
        cells = (
            row["name"],
            row["state"],
            row["team"] or "",
            models,
            ", ".join(row["limits"]),
            row["budget"] or "",
            ", ".join(row["addresses"] or ["anywhere"]),
            row["priority"],
        )
        table.add_row(*(escape(cell) for cell in (*cells, *dates)))
    _show(out, table)


def signing_rotated(view: View) -> None:
    out.print(
        f"keys are signed with {view['signing_key']} from now on; the old ones count until {_time(view['until'])}"
    )
    _pending(view)
    if view["ends"]:
        err.print(f"{view['ends']} issued keys then end before their time: rotate them (`ctl keys rotate NAME`)")


def verified(view: View) -> None:
    if not view["problems"]:
        out.print(f"[green]{view['entries']} entries, none changed[/]; head {view['head']}", soft_wrap=True)
    for problem in view["problems"]:
        where = f"{problem['file']}:{problem['line']}" if problem["line"] else problem["file"]
        out.print(f"[red]{escape(where)}[/]: {escape(problem['what'])}")


def audited(view: View) -> None:
    """Entries of the audit log, newest first."""
    table = _table("at (UTC)", "who", "from", "action", "what", prose=["what"])
    for entry in view["rows"]:
        actor = entry["actor"]
        details = ", ".join(f"{k}={short(v)}" for k, v in entry["details"].items() if v not in (None, "", []))
        what = f"{entry['target']}  {details}" if details else entry["target"]
        cells = (actor["name"] or actor["kind"], actor["from"], entry["action"], what.strip())
        table.add_row(_time(entry["at"]).removesuffix(" UTC"), *(escape(cell) for cell in cells))
    if view["rows"]:
        _show(out, table)
    else:
        out.print("no such entries")
    if view["damaged"]:
        out.print(f"[red]{view['damaged']} lines are damaged[/]: `ctl audit verify` says which")


def budgets(view: View) -> None:
    if not view["rows"]:
        out.print("the policy has no budgets and no token limits")
        return
    table = _table("budget", "of", "used", "amount", "unit", "state")
    for row in view["rows"]:
        owner = f"{row['owner_kind']} {row['owner']}" if row["owner"] else "everyone"
        spent = row["spent_until"]
        state = f"[red]spent until {_time(spent)}[/] ({row['on_spent']})" if spent else "[green]open[/]"
        table.add_row(escape(row["budget"]), escape(owner), str(row["used"]), str(row["amount"]), row["unit"], state)
    _show(out, table)


def cached(view: View) -> None:
    """One line per rule; what is away below it."""
    if not view["rules"]:
        out.print("nothing was asked of the cache yet")
    else:
        figures = ("entries", "redis_entries", "hits", "similar", "misses", "waited", "stored")
        table = _table("rule")
        for name in figures:
            table.add_column(name.replace("redis_entries", "in redis"), justify="right", no_wrap=True)
        for row in view["rules"]:
            table.add_row(escape(row["rule"]), *(f"{row[name]:,}" for name in figures))
        out.print(table)
    out.print(f"memory: {view['bytes']:,} bytes, {view['evicted']:,} answers made room for others")
    if view["redis"] == "away":
        out.print("[red]Redis is away[/]: what it holds is not found")
    if view["embeddings"] == "away":
        out.print("[red]no embeddings[/]: only equal requests are found")


def target(view: View, number: int) -> str:
    """A target of a group of so many."""
    weight = f" ({view['weight']})" if number > 1 else ""
    return f"{view['provider']}/{view['model']}{weight}"


def price(view: View | None) -> str:
    """A price as the catalog writes it, for people."""
    if view is None:
        return "[yellow]no known price[/]"
    rates = [f"{name} ${rate}" for name, rate in view.items() if name != "tiers"]
    tiers = [f"above {tier['above']:,} tokens: {price(_without(tier, 'above'))}" for tier in view.get("tiers", [])]
    return "; ".join((", ".join(rates), *tiers))


def _without(view: View, name: str) -> View:
    return {key: value for key, value in view.items() if key != name}


def decisions(rows: list[View]) -> None:
    for row in rows:
        _paragraph(f"tier {row['tier']}  [bold]{escape(row['path'])}[/]  {escape(row['rule'])}")
        why = f"; {row['why']}" if row["why"] else ""
        _paragraph(f"[dim]{escape(row['mechanism'] + why)}[/]", indent=8)


def _paragraph(text: str, indent: int = 0) -> None:
    """A line in a pipe; in a terminal as many as it takes, broken between words."""
    if out.is_terminal:
        out.print(Padding(text, (0, 0, 0, indent)), soft_wrap=False)
    else:
        out.print(" " * indent + text)


def answer(view: View) -> None:
    if view["status"] != 200:
        out.print(f"[red]{view['status']} {view['code']}[/]")
        return
    out.print(
        f"model {escape(view['model'])} takes the route {escape(view['route'])}, at most {view['attempts']} attempts"
    )
    for number, group in enumerate(view["groups"], 1):
        out.print(f"  {number}. " + escape(", ".join(target(each, len(group)) for each in group)))
    for row in view["translations"]:
        _translation(row)
    for row in view["prices"]:
        where = f"  [dim]{escape(row['source'])}[/]" if row["source"] else ""
        out.print(f"price at {escape(target(row, 1))}: {price(row['price'])}{where}", soft_wrap=True)
    limits = ", ".join(view["limits"]) or "none"
    out.print(f"limits: {escape(limits)}")
    rules, translated = ", ".join(view["rules"]), "; ".join(view["translated"])
    out.print(f"rules: {escape(rules)} (tier 2)" if rules else "rules: none")
    if translated:
        out.print(f"translated: {escape(translated)} (tier 2)")
    elif not rules:
        out.print("nothing of it runs in Python (tier 0)")


def _translation(row: View) -> None:
    where = escape(f"translated for {target(row, 1)} ({row['api']})")
    if row["refused"]:
        out.print(f"{where}: [red]400[/] {escape(row['refused'])}", soft_wrap=True)
        return
    out.print(f"{where}: POST {escape(row['path'])}", soft_wrap=True)
    for name, found in (("left out", row["dropped"]), ("sent in another form", row["warnings"])):
        if found:
            out.print(f"  {name}: {escape('; '.join(found))}", soft_wrap=True)


class Foreground:
    """What `ctl up` says while it runs."""

    def started(self, live: "Live", nodes: tuple[str, ...]) -> None:
        edge, gateway = live.compiled.plan.edge, live.compiled.policy.gateway
        scheme = "https" if edge.tls else "http"
        err.print(f"[green]serving[/] {scheme}://{_host(edge.host)}:{edge.port}/v1  (revision {live.revision.number})")
        err.print(f"admin   http://{_host(gateway.admin.listen.host)}:{gateway.admin.listen.port}")
        for warning in live.compiled.warnings:
            err.print(f"[yellow]warning[/] {escape(warning.message)}")
        err.print("edit the policy to change it, Ctrl-C to stop")

    def applied(self, applied: "Applied") -> None:
        if not applied.changed:
            err.print("saved: nothing changes")
            return
        paths = [change.path for change in applied.difference.policy]
        names = ", ".join(map(path_text, paths[:4]))
        more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
        err.print(
            f"[green]live[/] revision {applied.revision.number}: {escape(names)}{more} "
            f"({applied.difference.effect}; {len(applied.nodes)} node{'s' if len(applied.nodes) != 1 else ''})"
        )

    def failed(self, error: PolicyError | ApplyError, text: str) -> None:
        err.print("[red]not applied[/]; what was live before goes on")
        if isinstance(error, PolicyError):
            diagnostics(error.errors, text)
        else:
            err.print(escape(str(error)))

    def reread(self, files: tuple[str, ...]) -> None:
        err.print(f"[green]live[/] with what is now in {escape(', '.join(files))}")

    def pending(self, names: tuple[str, ...]) -> None:
        err.print(f"[yellow]at the next start[/]: {', '.join(names)} changed, which a running gateway cannot take over")

    def draining(self, seconds: float) -> None:
        err.print(f"draining: requests in flight have {seconds:g} s to finish; Ctrl-C again ends at once")


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _time(iso: str) -> str:
    return iso.replace("T", " ")[:19] + " UTC"


def _by(row: View) -> str:
    who = row["who"] or "unknown"
    return escape(who if who == row["source"] else f"{who}, {row['source']}")
