"""The services that providers are: started with a policy that needs them, stopped with the last one that does."""

import os
import signal
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from controlplane.runtime import process, services
from controlplane.runtime.child import Child, ProcessState, Status
from controlplane.runtime.failures import ServiceError
from controlplane.runtime.folder import RunFolder, run_folder
from controlplane.runtime.services import Services
from controlplane.runtime.supervise import Supervisor
from controlplane.xds import local_models
from tests.support.children import gone, state
from tests.unit.plan.compiled import compiled

MOCK = compiled("version: 1\nproviders: {p: {kind: mock}, q: {kind: mock}}\nmodels: {m: p, n: q}\n")
NONE = compiled("version: 1\nproviders: {p: {kind: openai}}\nmodels: {m: p}\n")
ONNX = "version: 1\nproviders: {here: {kind: onnx, models: {m: {path: m}}}}\nmodels: {m: here}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    with tempfile.TemporaryDirectory(prefix="hg-") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        made = run_folder(tmp_path)
        yield made
        for record in made.path.glob("*.pid"):  # what a failed test left
            found = orjson.loads(record.read_bytes())
            if process.identity(found["pid"]) == found["identity"]:
                os.kill(found["pid"], signal.SIGKILL)


async def test_one_process_is_all_mocks_and_ends_with_the_last_policy_that_has_one(folder: RunFolder) -> None:
    async with Supervisor(folder) as supervisor:
        made = Services(folder, supervisor, folder.path)
        await made.prepare(MOCK)
        await made.conclude(MOCK)
        pid = state(supervisor).pid
        assert await made.alarms() == []
        await made.prepare(NONE)
        assert state(supervisor).pid == pid  # requests may still go by the policy before
        await made.conclude(NONE)
        assert supervisor.states() == () and gone(pid)


async def test_what_an_earlier_control_plane_left_behind_ends(folder: RunFolder) -> None:
    earlier = Supervisor(folder)
    await earlier.__aenter__()
    await Services(folder, earlier, folder.path).prepare(MOCK)
    pid = state(earlier).pid
    await earlier.leave()
    async with Supervisor(folder) as supervisor:
        made = Services(folder, supervisor, folder.path)
        await made.prepare(NONE)
        assert not gone(pid)
        await made.conclude(NONE)
        assert gone(pid) and not folder.record("mock").exists()


async def test_one_that_cannot_start_says_why(folder: RunFolder) -> None:
    Path(folder.service_socket.format("mock")).write_text("in the way")
    async with Supervisor(folder) as supervisor:
        with pytest.raises(ServiceError, match=r"of the provider `p` does not start.* It said: .*cannot listen"):
            await Services(folder, supervisor, folder.path).prepare(MOCK)


async def test_an_eventful_past_is_no_reason_to_give_up(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    known = ProcessState("mock", Status.RUNNING, now, 1, adopted=False, restarts=7, last_exit="killed", last_log=())
    answers = [None, None, (200, {"status": "ok"})]

    async def start(_: Child) -> ProcessState:
        return known

    async def ask(*_: object) -> object:
        return answers.pop(0)

    monkeypatch.setattr(Services, "_ask", ask)
    supervisor: Any = SimpleNamespace(start=start, states=lambda: (known,))
    await Services(folder, supervisor, folder.path).prepare(MOCK)
    assert answers == []


async def test_what_is_not_installed_is_named(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "find_spec", lambda name: None if name == "onnxruntime" else object())
    async with Supervisor(folder) as supervisor:
        with pytest.raises(ServiceError, match=r"`here` needs onnxruntime.*pip install 'headgate\[onnx\]'"):
            await Services(folder, supervisor, folder.path).prepare(compiled(ONNX))
        assert supervisor.states() == ()


def test_during_an_edit_the_models_of_both_policies_are_there() -> None:
    before = {"version": 1, "threads": 2, "models": {"a": {"path": "/a"}, "b": {"path": "/old"}}}
    wanted = {"version": 1, "models": {"b": {"path": "/new"}, "c": {"path": "/c"}}}
    both = local_models.both(before, wanted)
    assert both == {"version": 1, "models": {"a": {"path": "/a"}, "b": {"path": "/new"}, "c": {"path": "/c"}}}
    assert local_models.dump(both)[1] != local_models.dump(wanted)[1]
