"""Servers to start checked against this machine: whether the interpreter, vLLM and the model are there.

Pure: what looks is passed in. It looks at names only; whether vLLM can load the model shows when the server starts.
"""

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import TypeAlias

from controlplane.policy.check import Places
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.folders import Lister
from controlplane.policy.language import Policy
from controlplane.policy.launch import Launch
from controlplane.policy.providers import VllmProvider

# What is wrong with an interpreter that is to have vLLM; None where nothing is. Relative paths are the policy's.
Prober: TypeAlias = Callable[[str], str | None]

# vLLM reads the configuration of Hugging Face's libraries, or Mistral's own.
_CONFIGURATIONS = ("config.json", "params.json")


def check_environments(policy: Policy, files: Lister, probe: Prober, places: Places) -> Iterator[Diagnostic]:
    """An error for whatever would keep a server from starting."""
    for name, provider in policy.providers.items():
        if not isinstance(provider, VllmProvider) or provider.launch is None:
            continue
        launch, path = provider.launch, ("providers", name, "launch")
        problem = probe(launch.python)
        if problem is not None:
            hint = "the path is relative to the policy; see docs/vllm.md for how to make such an environment"
            expected = "the interpreter of an environment with vLLM, such as venv/bin/python"
            message, place = f"`{launch.python}` {problem}", places((*path, "python"))
            yield Diagnostic(Severity.ERROR, "unfit-interpreter", message, place, expected, hint=hint)
        lacking = _lacking(launch, files)
        if lacking is not None:
            code, message, hint = lacking
            expected = "a folder with config.json and weights, a .gguf file, or a name that vLLM can look up"
            yield Diagnostic(Severity.ERROR, code, message, places((*path, "model")), expected, hint=hint)


def _lacking(launch: Launch, files: Lister) -> tuple[str, str, str] | None:
    """The code, what is wrong with the model, and what may help."""
    if not launch.is_path:
        if "/" in launch.model and files(launch.model) is not None:
            message = f"`{launch.model}` is a name for vLLM to look up, and a folder beside the policy"
            return "invalid-model", message, f"write ./{launch.model} if the folder is meant; otherwise rename it"
        return None
    hint = "the path is relative to the policy"
    found = files(launch.model)
    if found is not None:
        if any(name in found for name in _CONFIGURATIONS):
            return None
        return "invalid-model", f"`{launch.model}` has no config.json", hint
    file = PurePosixPath(launch.model)
    if file.name in (files(str(file.parent)) or ()):
        return None
    return "absent-model", f"`{launch.model}` is nothing that can be read", hint
