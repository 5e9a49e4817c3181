"""Interpreters that a policy names: whether they can run a server of vLLM."""

import os
import subprocess
from pathlib import Path

from controlplane.policy.environments import Prober

_PROBE_S = 20.0
_LOOK = "import importlib.util as u; print('yes' if u.find_spec('vllm') else 'no')"


def interpreter_prober(base: Path) -> Prober:
    """Looks at interpreters, relative to `base`. One that had vLLM once is not asked again until it changes."""
    good: set[tuple[str, int]] = set()

    def probe(python: str) -> str | None:
        path = base / python
        try:
            stamp = (python, path.stat().st_mtime_ns)
        except OSError as error:
            return f"cannot be used: {error.strerror}"
        if stamp in good:
            return None
        problem = _problem(path)
        if problem is None:
            good.add(stamp)
        return problem

    return probe


def _problem(python: Path) -> str | None:
    """Why an interpreter cannot run vLLM, as far as a look at its packages tells: to import it takes many seconds."""
    if not python.is_file() or not os.access(python, os.X_OK):
        return "cannot be executed"
    env = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONSAFEPATH": "1"}
    try:
        asked = subprocess.run(  # noqa: S603 - the interpreter that the policy names, and will have run
            [python, "-c", _LOOK], capture_output=True, text=True, timeout=_PROBE_S, check=False, env=env
        )
    except OSError as error:
        return f"cannot be executed: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"does not answer within {_PROBE_S:g} s"
    if asked.returncode == 0 and asked.stdout.strip() == "no":
        return "has no package vllm"
    if asked.returncode != 0 or asked.stdout.strip() != "yes":
        said = asked.stderr.strip().splitlines()
        return f"is no Python that runs{f': {said[-1][:200]}' if said else ''}"
    return None
