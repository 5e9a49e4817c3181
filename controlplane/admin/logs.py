"""The logs of the processes that the control plane runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query

from controlplane.policy.structure import did_you_mean
from controlplane.runtime import logfile
from controlplane.runtime.child import ProcessState
from controlplane.runtime.controller import Controller


def router(
    controller: Controller, processes: Callable[[], tuple[ProcessState, ...]], log: Callable[[str], Path]
) -> APIRouter:
    """GET /processes/{name}/log. `log`: where a process writes, by its name."""
    made = APIRouter()

    @made.get("/processes/{name}/log", summary="The end of what a process wrote, secrets of the policy redacted")
    def lines(name: str, lines: Annotated[int, Query(ge=1, le=logfile.MOST_LINES)] = 100) -> dict[str, Any]:
        names = [state.name for state in processes()]
        if name not in names:
            there = ", ".join(names) or "none"
            raise HTTPException(404, f"no process `{name}` runs here{did_you_mean(name, names)} There are {there}.")
        found, file = logfile.last_lines(log(name), count=lines), log(name)
        return {"name": name, "file": str(file), "lines": logfile.redacted(found, controller.secrets())}

    return made
