"""The generated documents: `python -m controlplane.cli.reference` writes docs/reference and schemas into the checkout.

The pages are pure functions of the code, so that a test can tell when a file is behind it.
"""

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import typer
from typer.models import ArgumentInfo, OptionInfo

from controlplane.admin.roles import permissions_page
from controlplane.cli.main import app
from controlplane.policy import grammar
from controlplane.policy.codes import CODES
from controlplane.policy.providers import FORMS
from controlplane.policy.schema import json_schema

Schema = Mapping[str, Any]

_WRITTEN_BY = "<!-- Written by `python -m controlplane.cli.reference`: edit the code instead. -->\n"
_REF = "#/$defs/"
# Chapters, in the order in which a policy is written; a mapping without a name here comes last under its own.
_TITLES = {
    "Gateway": "Gateway", "Admin": "Admin API", "AdminUser": "User of the admin API",
    "GatewayTls": "TLS to clients", "Cors": "CORS",
    **{form.__name__: f"Provider of kind {kind}" for kind, form in FORMS.items()},
    "OnnxModel": "Local model", "MockError": "Failures of a mock", "AwsCredentials": "AWS credentials",
    "HealthCheck": "Health check", "Ejection": "Ejection", "ProviderTls": "TLS to a provider",
    "ByRegistration": "Endpoints that register", "Registration": "Registration of services",
    "ByFile": "Endpoints of a file", "ByName": "Endpoints of a name",
    "SimpleSpec": "Model at one provider", "TrySpec": "Model with several targets", "TargetSpec": "Target",
    "Timeouts": "Timeouts", "Key": "Key", "Issuer": "Outside issuer", "Claims": "Claims",
    "JwksUrl": "Keys at a URL", "Limit": "Limit",
}  # fmt: skip
_FORMS = {
    grammar.DURATION: "duration", grammar.DAYS: "days", grammar.SIZE: "size", grammar.RATE: "rate",
    "^https?://[^\\s@?#]+$": "URL",
}  # fmt: skip
_ADDRESS = "127.0.0.1:8080"
_GRAMMARS = """\
| form | grammar |
|---|---|
| duration | a whole number and `ms`, `s`, `m`, `h` or `d` |
| days | a whole number and `d` |
| size | a whole number of bytes, or with `KiB`, `MiB` or `GiB` |
| rate | a whole number, perhaps with `k` or `M`, per `/s`, `/m`, `/h` or `/d` |
| address | `HOST:PORT`, an IPv6 address in brackets |
| URL | `http` or `https`, host, perhaps port and path; no user, query or fragment |
| secret | `{env: NAME}` (a variable of the environment) or `{file: path}` (relative to the policy) |
"""


def policy_page() -> str:
    """Every mapping of the policy language with its fields, from the JSON Schema."""
    schema = json_schema()
    named: Mapping[str, Schema] = schema["$defs"]
    order = [*(name for name in _TITLES if name in named), *(name for name in named if name not in _TITLES)]
    parts = [
        "# Policy reference\n",
        _WRITTEN_BY,
        "Every field of the policy language, version 1. [The guide](../policy.md) shows them in use. A field that is\n"
        "not listed is an error, as is a field without a value. `ctl schema` prints the JSON Schema for editors.\n",
        _GRAMMARS,
        _chapter("The policy", schema, named),
        *(_chapter(_title(name), named[name], named) for name in order),
    ]
    return "\n".join(parts)


def cli_page() -> str:
    """Every command with its arguments and options, from the command line itself."""
    parts = ["# Command line\n", _WRITTEN_BY, f"{_plain(str(app.info.help))}\n", _options_of_all()]
    for name, function in commands():
        params = _parameters(function)
        parts += [f"## ctl {name}\n", f"{_plain(inspect.getdoc(function))}\n", f"    {_usage(name, params)}\n"]
        if params:
            rows = [(param.name, param.default, param.help) for param in params]
            parts.append(_table(("argument or option", "default", "meaning"), rows))
    return "\n".join(parts)


def _options_of_all() -> str:
    """What stands before the command."""
    given = app.registered_callback
    if given is None or given.callback is None:
        raise TypeError("ctl has no options of its own")
    rows = [(param.name, param.default, param.help) for param in _parameters(given.callback)]
    return _table(("option before the command", "default", "meaning"), rows)


def commands() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every command as it is typed after `ctl`, and the function behind it."""
    yield from _commands(app, "")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            alone = group.typer_instance.registered_callback
            if alone is not None and alone.callback is not None:
                yield str(group.name), alone.callback
            yield from _commands(group.typer_instance, f"{group.name} ")


def _commands(group: typer.Typer, before: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    for command in group.registered_commands:
        if command.callback is not None:
            yield before + (command.name or command.callback.__name__), command.callback


def diagnostics_page() -> str:
    """Every diagnostic code with its meaning."""
    rows = [(f"`{code}`", meaning) for code, meaning in sorted(CODES.items())]
    return "\n".join(
        [
            "# Diagnostics\n",
            _WRITTEN_BY,
            "What `ctl validate` and `ctl up` say about a policy: a code in brackets, the place (`file:line:column`\n"
            "and path), what was expected, and the nearest valid name. All errors of a file are reported at once.\n",
            _table(("code", "meaning and next step"), rows),
        ]
    )


def documents() -> Mapping[str, str]:
    """Path in the checkout -> content, for everything that is generated."""
    return {
        "docs/reference/policy.md": policy_page(),
        "docs/reference/cli.md": cli_page(),
        "docs/reference/diagnostics.md": diagnostics_page(),
        "docs/reference/permissions.md": permissions_page(_WRITTEN_BY),
        # As `ctl schema` prints it.
        "schemas/policy.schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
    }


def _title(name: str) -> str:
    return _TITLES.get(name, name)


def _chapter(name: str, mapping: Schema, named: Mapping[str, Schema]) -> str:
    rows = []
    for field, of in mapping["properties"].items():
        said = of.get("default") not in (None, [], {})
        default = "required" if field in mapping.get("required", ()) else _code(of["default"]) if said else ""
        meaning = of.get("description") or named[of["$ref"].removeprefix(_REF)]["description"]
        rows.append((f"`{field}`", _form(of), default, meaning))
    table = _table(("field", "form", "default", "meaning"), rows)
    return f"## {name}\n\n{mapping['description']}\n\n{table}"


def _form(field: Schema) -> str:
    """What can be written there, in a few words; mappings are links to their chapters."""
    if "$ref" in field:
        title = _title(field["$ref"].removeprefix(_REF))
        return f"[{title}](#{title.lower().replace(' ', '-')})"
    if _is_secret(field):
        return "secret"
    for word in ("anyOf", "oneOf"):
        if word in field:
            return " or ".join(dict.fromkeys(_form(choice) for choice in field[word]))
    if "const" in field:
        return _code(field["const"])
    if "enum" in field:
        return ", ".join(_code(value) for value in field["enum"])
    return _plain_form(field)


def _plain_form(field: Schema) -> str:
    if field.get("type") == "array":
        items = _form(field["items"])
        return f"list of ({items})" if " or " in items else f"list of {items}"
    if "patternProperties" in field:
        (of,) = field["patternProperties"].values()
        return f"name: {_form(of)}"
    if isinstance(field.get("additionalProperties"), dict):
        return f"text: {_form(field['additionalProperties'])}"
    if field.get("type") == "boolean":
        return "`true` or `false`"
    return _scalar_form(field)


def _scalar_form(field: Schema) -> str:
    if "minimum" in field or "maximum" in field:
        bounds = (field.get("minimum"), field.get("maximum"))
        return f"{bounds[0]} to {bounds[1]}" if None not in bounds else f"number from {bounds[0]}"
    if _ADDRESS in field.get("examples", ()):
        return "address"
    examples = ", ".join(_code(example) for example in field.get("examples", ()))
    form = _FORMS.get(field.get("pattern", ""), "text")
    return form if form != "text" or not examples else f"text such as {examples}"


def _is_secret(field: Schema) -> bool:
    return any("env" in choice.get("properties", {}) for choice in field.get("oneOf", ()))


@dataclass(frozen=True, slots=True)
class _Parameter:
    """An argument or option of a command, as the page shows it."""

    name: str
    default: str
    help: str
    argument: str | None  # its name in the command line


def _usage(command: str, params: Sequence[_Parameter]) -> str:
    arguments = [param.argument for param in params if param.argument]
    options = ["[OPTIONS]"] if len(arguments) < len(params) else []
    return " ".join(("ctl", command, *options, *arguments))


def _parameters(function: Callable[..., Any]) -> list[_Parameter]:
    """From the function's own signature: typer's classes of parsed parameters are not public."""
    params = inspect.signature(function, eval_str=True).parameters.values()
    return [_parameter(param) for param in params if param.annotation is not typer.Context]


def _parameter(param: inspect.Parameter) -> _Parameter:
    of, info = get_args(param.annotation)
    default = "required" if param.default is param.empty else _default(param.default)
    help_text = _plain(info.help)
    if isinstance(info, ArgumentInfo):
        name = str(info.metavar or param.name).strip("[]").upper()
        return _Parameter(f"`{name}`", default, help_text, name if default == "required" else f"[{name}]")
    if not isinstance(info, OptionInfo):
        raise TypeError(f"the parameter {param.name} says neither argument nor option")
    # In an annotation the first name of an option stands where a default would.
    given = [name for name in (info.default, *(info.param_decls or ())) if isinstance(name, str)]
    names = ", ".join(_code(name) for name in given or [f"--{param.name.replace('_', '-')}"])
    variable = f" Also `${info.envvar}`." if info.envvar else ""
    return _Parameter(names + _value(of), default, help_text + variable, None)


def _value(of: Any) -> str:
    """What follows an option's name: nothing for a flag."""
    if isinstance(of, type) and issubclass(of, Enum):
        return " " + " or ".join(_code(str(choice.value)) for choice in of)
    if of is bool:
        return ""
    kinds = {int: "NUMBER", float: "NUMBER", Path: "FILE"}
    return " " + next((kinds[kind] for kind in (of, *get_args(of)) if kind in kinds), "TEXT")


def _default(value: Any) -> str:
    text = str(value) if isinstance(value, Path) else getattr(value, "value", value)
    return "" if value in (None, False, "") else _code(text)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _code(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`{text}`"


def _plain(text: str | None) -> str:
    """Help text as typer keeps it, on one line per paragraph."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", (text or "").strip())


def write(root: Path) -> None:
    for path, content in documents().items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd())
