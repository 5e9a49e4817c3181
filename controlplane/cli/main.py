"""`ctl` checks, explains, applies and runs policies.

Exit codes: 0 done, 1 refused or failed, 2 wrong use (or, with --exit-code, a difference),
3 a quantized model that lost too much.
"""

import asyncio
import csv
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from controlplane.admin import views
from controlplane.cli import audit, cache, console, discovered, keys, local, logs, metadata, models, prices, replay
from controlplane.cli.common import (
    Format,
    FormatOption,
    Policy,
    Rows,
    Server,
    Token,
    Why,
    given_token,
    print_json,
    remote,
    show,
    who,
)  # fmt: skip
from controlplane.cli.remote import Remote, RemoteError
from controlplane.policy.diagnostics import PolicyError
from controlplane.policy.schema import json_schema
from controlplane.revisions.revision import RevisionsError
from controlplane.runtime.child import StartError
from controlplane.runtime.envoy import EnvoyNotFoundError
from controlplane.runtime.failures import ApplyError, NotReadyError
from controlplane.runtime.folder import RunFolderError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
app.add_typer(cache.app, name="cache")
models.app.command("show")(metadata.show_model)
app.add_typer(models.app, name="models")
app.add_typer(prices.app, name="prices")
app.command()(replay.record)
app.command()(replay.replay)
app.command("logs")(logs.logs)


@app.callback(help=__doc__)
def options(token: Token = None) -> None:
    """Options of every command; `common.remote` reads them."""
    given_token.set(token)


@app.command()
def up(policy: Policy) -> None:
    """Runs the whole gateway in the foreground and watches the policy file. Ctrl-C drains and stops it."""
    from controlplane.runtime.gateway import serve  # noqa: PLC0415 - servers that no other command needs

    try:
        asyncio.run(serve(policy, who(), console.Foreground()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(130) from None


@app.command()
def validate(policy: Policy, output: FormatOption = Format.TEXT) -> None:
    """Checks a policy: schema, names, secrets, then Envoy's own verdict on the compiled result. 0 valid, 1 not."""
    found = local.validate(policy)
    if output is Format.JSON:
        print_json(found.view)
    else:
        console.diagnostics(found.diagnostics, found.text)
        if found.view["envoy"] not in (None, "accepted"):
            console.failed(found.view["envoy"], "Envoy refuses the compiled policy")
        elif found.view["valid"]:
            console.out.print(f"{policy} is valid; Envoy accepts it")
    raise typer.Exit(0 if found.view["valid"] else 1)


@app.command()
def diff(
    policy: Policy,
    server: Server = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="0: nothing changes, 2: something does.")] = False,
    output: FormatOption = Format.TEXT,
) -> None:
    """Shows what an apply would do, in policy terms and for Envoy, and what each change does to traffic."""
    asked = _control_plane(server, policy)
    view = _sent(asked, "/diff", policy) if server or asked.reachable() else local.diff(policy)
    show(output, view, console.difference)
    raise typer.Exit(2 if exit_code and (view["policy"] or view["xds"]) else 0)


@app.command()
def apply(
    policy: Policy,
    server: Server = None,
    why: Why = "",
    expected: Annotated[int | None, typer.Option(help="Refuse unless this revision is live.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for every node's acknowledgement.")] = 10.0,
    output: FormatOption = Format.TEXT,
) -> None:
    """Makes a policy live on every node of a running control plane, or rolls back and exits 1."""
    asked = _control_plane(server, policy)
    view = _sent(asked, "/apply", policy, who=who(), why=why, expected=expected, timeout=timeout)
    show(output, view, _applied)


@app.command()
def explain(
    policy: Policy,
    request: Annotated[Path | None, typer.Option(help="A JSON request body: shows the way it would take.")] = None,
    key: Annotated[str | None, typer.Option(help="The name of the key that the request is sent with.")] = None,
    path: Annotated[str, typer.Option(help="The endpoint that the request is sent to.")] = "/v1/chat/completions",
    output: FormatOption = Format.TEXT,
) -> None:
    """Shows the tier of every rule, and why; or, for a request, its route, targets, limits, and its translation."""
    if request is None and key is None:
        show(output, local.decisions(policy), console.decisions)
    else:
        show(output, local.answer(policy, request, key, path), console.answer)


@app.command()
def status(server: Server = None, output: FormatOption = Format.TEXT) -> None:
    """Shows nodes, acknowledged and rejected versions, processes, and the last edit that failed."""
    show(output, remote(server).get("/status"), console.status)


@app.command()
def endpoints(
    provider: Annotated[str | None, typer.Option(help="Of this provider only.")] = None,
    server: Server = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Shows the endpoints that were discovered: who is registered, how busy they are, what files list."""
    view = remote(server).get("/endpoints", provider=provider)
    show(output, view, discovered.endpoints)


@app.command()
def history(
    server: Server = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many revisions.")] = 20,
    output: FormatOption = Format.TEXT,
) -> None:
    """Lists revisions, newest first: who, when, why, and what became of them."""
    show(output, remote(server).get("/history", limit=limit), console.history)


@app.command()
def rollback(
    revision: Annotated[str, typer.Argument(help="A revision's number, or `previous`.")] = "previous",
    server: Server = None,
    why: Why = "",
    output: FormatOption = Format.TEXT,
) -> None:
    """Makes the policy of an earlier revision live again; without a number, one step back."""
    if revision != "previous" and not revision.isdigit():
        raise typer.BadParameter(f"{revision!r} is neither a number nor `previous`")
    number = revision if revision == "previous" else int(revision)
    view = remote(server).post("/rollback", {"revision": number, "who": who(), "why": why})
    show(output, view, _applied)
    if output is Format.TEXT:
        console.err.print("the policy file is as it was: its next edit, or the next `ctl up`, applies it again")


@app.command()
def usage(
    by: Annotated[
        str, typer.Option(help="Groups, comma-separated: key, team, organization, model, provider, day, hour …")
    ] = "key,model",
    since: Annotated[str, typer.Option(help="From when on: an age such as 24h, or a time.")] = "30d",
    until: Annotated[str, typer.Option(help="Until when: an age, or a time; now by default.")] = "",
    key: Annotated[str | None, typer.Option(help="Of this key only.")] = None,
    team: Annotated[str | None, typer.Option(help="Of this team only.")] = None,
    model: Annotated[str | None, typer.Option(help="Of this model only.")] = None,
    provider: Annotated[str | None, typer.Option(help="Of this provider only.")] = None,
    request: Annotated[
        str | None, typer.Option("--id", help="The records of one request, by the `x-request-id` of its answer.")
    ] = None,
    unpriced: Annotated[bool, typer.Option("--unpriced", help="Models without a known price.")] = False,
    server: Server = None,
    output: Annotated[Rows, typer.Option("--format", help="For people, programs or spreadsheets.")] = Rows.TEXT,
) -> None:
    """Shows requests, tokens, cost and latency, in groups."""
    asked = remote(server)
    if request is not None:
        _rows(output, asked.get("/usage/records", id=request), console.requests)
    elif unpriced:
        view = asked.get("/usage/unpriced", since=since, until=until)
        _rows(output, view, console.unpriced)
    else:
        only = {"key": key, "team": team, "model": model, "provider": provider}
        view = asked.get("/usage", by=by, since=since, until=until, **only)
        _rows(output, view, console.usage)


@app.command()
def budgets(server: Server = None, output: FormatOption = Format.TEXT) -> None:
    """Shows how budgets stand, and token limits that are counted after requests."""
    show(output, remote(server).get("/budgets"), console.budgets)


@app.command()
def snapshot(server: Server = None) -> None:
    """Prints the xDS resources that are live, as JSON, secrets redacted."""
    print_json(remote(server).get("/snapshot"))


@app.command()
def schema() -> None:
    """Prints the JSON Schema of the policy language, for editors."""
    print_json(json_schema())


def _control_plane(server: str | None, policy: Path) -> Remote:
    """The one that is named, else the policy's own. Raises PolicyError, OSError."""
    return remote(server or local.server_of(policy))


def _sent(asked: Remote, path: str, policy: Path, **more: Any) -> Any:
    """What the control plane says of a policy. Raises PolicyError for a wrong one, as if it were checked here."""
    try:
        return asked.post(path, {"policy": local.text_of(policy), **more})
    except RemoteError as error:
        found = error.answer.get("diagnostics") if isinstance(error.answer, dict) else None
        if not found:
            raise
        raise PolicyError(views.diagnostic_of(each, str(policy)) for each in found) from error


def _applied(view: dict[str, Any]) -> None:
    if not view["changed"]:
        console.out.print(f"revision {view['revision']} is live already: nothing changes")
        return
    console.difference(view["difference"])
    nodes = ", ".join(view["nodes"]) or "no node is connected"
    console.out.print(f"[green]revision {view['revision']} is live[/]; acknowledged by: {escape(nodes)}")


def _rows(output: Rows, view: dict[str, Any], human: Any) -> None:
    if output is Rows.CSV:
        flat = [_flat(row) for row in view["rows"]]
        names = list(dict.fromkeys(name for row in flat for name in row))
        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
    else:
        show(Format(output), view, human)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row without mappings in it: latency_ms.p50 and the like."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{part}": of for part, of in value.items()})
        else:
            flat[name] = value
    return flat


def _remote_refusal(error: RemoteError) -> None:
    """A control plane's no, in the words that `ctl` would have used itself."""
    answer = error.answer if isinstance(error.answer, dict) else {}
    console.failed(str(error))
    for each in answer.get("diagnostics", []):
        where = f"{each['file']}:{each['line']}:{each['column']}" if each["file"] else "policy"
        console.err.print(escape(f"  {each['severity']} {where} at {each['path']}: {each['message']}"))
    if answer.get("revision") is not None:
        console.err.print(f"revision {answer['revision']} was taken back: the nodes run what they ran before")


def run() -> None:
    """The entry point: turns what can go wrong into a message and exit code 1."""
    try:
        app()
    except RemoteError as error:
        _remote_refusal(error)
    except PolicyError as error:
        console.diagnostics(error.diagnostics, local.text_at(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        console.failed(where + (error.strerror or str(error)))
    except (
        ApplyError, EnvoyNotFoundError, NotReadyError, RevisionsError, RunFolderError, StartError, local.UseError
    ) as error:  # fmt: skip
        console.failed(str(error))
    else:
        return
    raise SystemExit(1)
