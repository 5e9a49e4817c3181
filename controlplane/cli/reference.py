"""The generated documents: `python -m controlplane.cli.reference` writes docs/reference and schemas into the checkout.

The pages are pure functions of the code, so that a test can tell when a file is behind it.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import typer

from controlplane.cli.main import app
from controlplane.policy.codes import CODES
from controlplane.policy.schema import json_schema

Schema = Mapping[str, Any]

_WRITTEN_BY = "<!-- Written by `python -m controlplane.cli.reference`: edit the code instead. -->\n"
_REF = "#/$defs/"
# Chapters, in the order in which a policy is written; the rest follows in the order of the schema.
_ORDER = (
    "Gateway", "Admin", "GatewayTls", "Cors", "OpenAIProvider", "MockProvider", "HealthCheck", "Ejection",
    "ProviderTls", "SimpleSpec", "TrySpec", "TargetSpec", "Timeouts", "Key", "Limit",
)  # fmt: skip
_FORMS = {
    "^[0-9]+(ms|s|m|h|d)$": "duration", "^[0-9]+(B|KiB|MiB|GiB)?$": "size", "^[0-9]+[kM]?/[smhd]$": "rate",
    "^.+:[0-9]+$": "address", "^https?://[^\\s@?#]+$": "URL",
}  # fmt: skip
_GRAMMARS = """\
| form | grammar |
|---|---|
| duration | a whole number and `ms`, `s`, `m`, `h` or `d` |
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
    order = [*(name for name in _ORDER if name in named), *(name for name in named if name not in _ORDER)]
    parts = [
        "# Policy reference\n",
        _WRITTEN_BY,
        "Every field of the policy language, version 1. [The guide](../policy.md) explains them in use. A field that is\n"
        "not listed is an error, and so is a field without a value. `ctl schema` prints the JSON Schema for editors.\n",
        _GRAMMARS,
        _chapter("The policy", schema),
        *(_chapter(name, named[name]) for name in order),
    ]
    return "\n".join(parts)


def cli_page() -> str:
    """Every command with its arguments and options, from the command line itself."""
    group = typer.main.get_command(app)
    if not isinstance(group, click.Group):
        raise TypeError("the command line has a single command")
    parts = ["# Command line\n", _WRITTEN_BY, f"{_plain(group.help)}\n"]
    for name, command in group.commands.items():
        parts += [f"## ctl {name}\n", f"{_plain(command.help)}\n", f"    {_usage(name, command)}\n"]
        rows = [row for param in command.params if (row := _parameter(param))]
        if rows:
            parts.append(_table(("argument or option", "default", "meaning"), rows))
    return "\n".join(parts)


def diagnostics_page() -> str:
    """Every diagnostic code with its meaning."""
    rows = [(f"`{code}`", meaning) for code, meaning in sorted(CODES.items())]
    return "\n".join(
        [
            "# Diagnostics\n",
            _WRITTEN_BY,
            "What `ctl validate` and `ctl up` say about a policy: a code in brackets, the place as `file:line:column`, the\n"
            "path in the document, what was expected, and the nearest valid name. All errors are reported at once.\n",
            _table(("code", "meaning and next step"), rows),
        ]
    )


def documents() -> Mapping[str, str]:
    """Path in the checkout -> content, for everything that is generated."""
    return {
        "docs/reference/policy.md": policy_page(),
        "docs/reference/cli.md": cli_page(),
        "docs/reference/diagnostics.md": diagnostics_page(),
        # As `ctl schema` prints it.
        "schemas/policy.schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
    }


def _chapter(name: str, mapping: Schema) -> str:
    required = mapping.get("required", ())
    rows = []
    for field, of in mapping["properties"].items():
        default = "required" if field in required else _code(of["default"]) if of.get("default") else ""
        rows.append((f"`{field}`", _form(of), default, of.get("description", "")))
    table = _table(("field", "form", "default", "meaning"), rows)
    return f"## {name}\n\n{mapping['description']}\n\n{table}"


def _form(field: Schema) -> str:
    """What can be written there, in a few words; mappings are links to their chapters."""
    if "$ref" in field:
        name = field["$ref"].removeprefix(_REF)
        return f"[{name}](#{name.lower()})"
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
        return f"list of {_form(field['items'])}"
    if "patternProperties" in field:
        (of,) = field["patternProperties"].values()
        return f"name: {_form(of)}"
    if "minimum" in field or "maximum" in field:
        bounds = (field.get("minimum"), field.get("maximum"))
        return f"{bounds[0]} to {bounds[1]}" if None not in bounds else f"number from {bounds[0]}"
    if field.get("type") == "boolean":
        return "`true` or `false`"
    examples = ", ".join(_code(example) for example in field.get("examples", ()))
    form = _FORMS.get(field.get("pattern", ""), "text")
    return form if form != "text" or not examples else f"text such as {examples}"


def _is_secret(field: Schema) -> bool:
    return any("env" in choice.get("properties", {}) for choice in field.get("oneOf", ()))


def _usage(name: str, command: click.Command) -> str:
    arguments = [param.make_metavar(click.Context(command)) for param in command.params if _is_argument(param)]
    options = ["[OPTIONS]"] if len(arguments) < len(command.params) else []
    return " ".join(("ctl", name, *options, *arguments))


def _is_argument(param: click.Parameter) -> bool:
    return param.param_type_name == "argument"


def _parameter(param: click.Parameter) -> tuple[str, str, str] | None:
    help_text = _plain(getattr(param, "help", None))
    if _is_argument(param):
        return f"`{param.human_readable_name.strip('[]').upper()}`", _default_of(param), help_text
    names = ", ".join(f"`{name}`" for name in param.opts)
    if isinstance(param.type, click.Choice):
        names += f" {' or '.join(_code(choice) for choice in _choices(param.type))}"
    elif not getattr(param, "is_flag", False):
        names += f" {param.type.name.split()[0].upper()}"
    variable = getattr(param, "envvar", None)
    return names, _default_of(param), help_text + (f" Also `${variable}`." if variable else "")


def _choices(of: "click.Choice[Any]") -> Iterator[str]:
    for choice in of.choices:
        yield str(getattr(choice, "value", choice))


def _default_of(param: click.Parameter) -> str:
    if param.required:
        return "required"
    value = getattr(param.default, "value", param.default)
    return "" if value in (None, False, "") or callable(value) else _code(value)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
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
