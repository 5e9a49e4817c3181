"""Looking at supervised processes in tests."""

import asyncio
from collections.abc import Callable

from controlplane.runtime import process
from controlplane.runtime.child import Child, ProcessState
from controlplane.runtime.supervise import Supervisor


def state(supervisor: Supervisor) -> ProcessState:
    (only,) = supervisor.states()
    return only


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not what():  # noqa: ASYNC110 - the state has no event
            await asyncio.sleep(0.01)


def gone(pid: int | None) -> bool:
    assert pid is not None
    return process.identity(pid) is None


def shell(script: str, **settings: float) -> Child:
    return Child("shell", ("/bin/sh", "-c", script), **settings)  # type: ignore[arg-type]
