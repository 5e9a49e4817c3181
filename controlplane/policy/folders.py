"""Folders of local models that a policy names: whether they hold what is needed. Pure: the lister is passed in.

Only names of files are looked at. What is wrong inside of them is told when the model is loaded, and fails it alone.
"""

from collections.abc import Callable, Iterator
from typing import TypeAlias

from controlplane.policy.check import Places
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.language import Policy
from controlplane.policy.onnx import OnnxModel, OnnxProvider
from controlplane.policy.structure import nearest

# The files of a folder, and of those below it, by their paths from there; None where there is no such folder.
Lister: TypeAlias = Callable[[str], frozenset[str] | None]

_WANTED = "a folder with config.json (or genai_config.json), tokenizer.json and an ONNX file"
_MAKE = "`ctl models import SOURCE FOLDER` makes one of safetensors weights, `make models` that of the quickstart"
_GENERATES = "genai_config.json"
_DEFAULT_FILES = ("model.onnx", "onnx/model.onnx")


def check_folders(policy: Policy, files: Lister, places: Places) -> Iterator[Diagnostic]:
    """An error for each model of the policy that cannot be loaded as its folder is."""
    for provider, settings in policy.providers.items():
        for name, model in settings.models.items() if isinstance(settings, OnnxProvider) else ():
            path = ("providers", provider, "models", name)
            found = files(model.path)
            if found is None:
                message = f"`{model.path}` is no folder that can be read"
                hint = f"the path is relative to the policy; {_MAKE}"
                place = places((*path, "path"))
                yield Diagnostic(Severity.ERROR, "absent-model", message, place, _WANTED, hint=hint)
                continue
            for field, message, near in _lacking(model, found):
                place = places((*path, field))
                yield Diagnostic(Severity.ERROR, "invalid-model", message, place, _WANTED, near, hint=_MAKE)


def _lacking(model: OnnxModel, found: frozenset[str]) -> Iterator[tuple[str, str, str | None]]:
    """The field that is wrong, why, and what was probably meant."""
    generates = model.task == "generate" or (model.task is None and _GENERATES in found)
    for needed in (_GENERATES if generates else "config.json", "tokenizer.json"):
        if needed not in found:
            yield "path", f"`{model.path}` has no {needed}", None
    graphs = sorted(name for name in found if name.endswith(".onnx"))
    if generates and graphs:
        return  # which of them is said inside of genai_config.json
    if model.file is not None:
        if model.file not in found:
            yield "file", f"`{model.path}` has no `{model.file}`", nearest(model.file, graphs)
    elif not graphs:
        yield "path", f"`{model.path}` has no ONNX file", None
    elif len(graphs) > 1 and not any(name in found for name in _DEFAULT_FILES):
        yield "path", f"`{model.path}` has several ONNX files, and `file` names none: {', '.join(graphs)}", None
