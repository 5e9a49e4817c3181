"""What the control plane keeps of registered services, and what it says where it cannot."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from controlplane.audit.entry import Event
from controlplane.compiling import Compiled
from controlplane.discovery.registry import Announced
from controlplane.plan.ir import Endpoint
from controlplane.runtime import discovery as module
from controlplane.runtime.discovery import Discovery
from tests.support.children import until
from tests.unit.plan.compiled import compiled

POLICY = """version: 1
providers: {farm: {kind: openai, base_url: "http://farm/v1", discover: {registered: {token: {env: FARM}}}}}
models: {m: farm}
"""


def said(name: str) -> Announced:
    return Announced(name, "farm", Endpoint("10.0.0.7", int(name)), ("m",), (), 4, 30)


class Edge:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.pushes = 0

    async def spread(self) -> None:
        self.pushes += 1


async def heard(_: Event) -> None:
    """Nobody reads it."""


@asynccontextmanager
async def running(folder: Path, policy: Compiled | None = None) -> AsyncIterator[tuple[Discovery, Edge]]:
    edge: Any = Edge()
    discovery = Discovery(folder, folder, heard)
    await discovery.prepare(policy or compiled(POLICY))
    tasks = [asyncio.create_task(task) for task in discovery.tasks(edge)]
    try:
        yield discovery, edge
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _alarmed(discovery: Discovery, *words: str) -> None:
    """Waits until there is an alarm with each of these words, and no other."""
    async with asyncio.timeout(30):
        while not _say([each["message"] for each in await discovery.alarms()], words):  # noqa: ASYNC110 - has no event
            await asyncio.sleep(0.01)


def _say(messages: list[str], words: tuple[str, ...]) -> bool:
    return len(messages) == len(words) and all(word in each for each, word in zip(messages, words, strict=True))


async def test_who_joins_is_kept_and_many_are_one_push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACE_S", 60.0)  # however long a hundred take
    async with running(tmp_path) as (discovery, edge):
        for port in range(1, 101):
            await discovery.join(said(str(port)), "127.0.0.1")
        await until(lambda: edge.pushes > 0)
    assert edge.pushes == 1
    again = Discovery(tmp_path, tmp_path, heard)
    assert again.registry.services.keys() == {str(port) for port in range(1, 101)}
    assert (tmp_path / "endpoints.json").stat().st_mode & 0o777 == 0o600


async def test_what_a_file_said_is_kept_from_the_first_look_on(tmp_path: Path) -> None:
    (tmp_path / "farm.yaml").write_text("endpoints: [10.0.0.7:80]")
    policy = compiled(POLICY.replace("{registered: {token: {env: FARM}}}", "{file: farm.yaml}"))
    async with running(tmp_path, policy):
        await until((tmp_path / "endpoints.json").exists)
    (tmp_path / "farm.yaml").write_text("")
    again = Discovery(tmp_path, tmp_path, heard)
    await again.prepare(policy)
    (found,) = again.found(policy.policy)["farm"]
    assert found.endpoint == Endpoint("10.0.0.7", 80)
    (said,) = await again.alarms()
    assert said["message"] == (
        "farm.yaml:1:1: the file is empty, expected `endpoints:` and a list; the endpoints before go on"
    )


async def test_what_cannot_be_kept_is_an_alarm_until_it_can(tmp_path: Path) -> None:
    (tmp_path / "endpoints.json").mkdir()
    async with running(tmp_path) as (discovery, _):
        await discovery.join(said("1"), "127.0.0.1")
        await _alarmed(discovery, "cannot be written")
        (tmp_path / "endpoints.json").rmdir()
        await discovery.join(said("2"), "127.0.0.1")
        await _alarmed(discovery)


def test_a_damaged_file_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "endpoints.json").write_text("{")
    assert Discovery(tmp_path, tmp_path, heard).registry.services == {}
