"""The life of models: who loads them, what unloads them, what a budget of memory does."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecars.onnx.app import view
from sidecars.onnx.batch import Priority
from sidecars.onnx.errors import ServiceError
from sidecars.onnx.fleet import Fleet
from sidecars.onnx.loaded import Loaded, look
from sidecars.onnx.metrics import Metrics
from sidecars.onnx.models import Model, Reason, State
from sidecars.onnx.settings import ModelSettings, Settings, Task

Folder = Callable[[str], Path]


@asynccontextmanager
async def fleet(models: dict[str, ModelSettings], **settings: Any) -> AsyncIterator[Fleet]:
    made = Fleet(Settings(version=1, models=models, threads=1, **settings), Metrics())
    made.start()
    try:
        yield made
    finally:
        await made.close()


async def ask(model: Model) -> Loaded:
    async with model.lease() as loaded:
        await loaded.engine.submit(loaded.encoder.texts(["a cat"]), Priority.NORMAL)
        return loaded


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not what():  # noqa: ASYNC110 - the state has no event
            await asyncio.sleep(0.001)


def states(fleet: Fleet) -> dict[str, State]:
    return {name: model.state for name, model in fleet.models.items()}


def size(path: Path) -> int:
    return look(ModelSettings(path)).memory_bytes


async def test_the_first_request_loads_and_all_that_wait_share_it(tiny: Folder) -> None:
    async with fleet({"mean": ModelSettings(tiny("mean"))}) as models:
        model = models.find("mean")
        assert model.state is State.AVAILABLE
        asked = [asyncio.create_task(ask(model)) for _ in range(5)]
        await until(lambda: model.state is not State.AVAILABLE)
        first, *others = await asyncio.gather(*asked)
        assert model.state is State.READY
        assert all(loaded is first for loaded in others)


async def test_a_folder_describes_its_model_which_is_not_loaded_for_that(tiny: Folder, tmp_path: Path) -> None:
    settings = {"topics": ModelSettings(tiny("topics")), "absent": ModelSettings(tmp_path / "absent")}
    async with fleet(settings) as models:
        for model in models.models.values():
            await model.look()
        assert set(states(models).values()) == {State.AVAILABLE}
        told = view(models.find("topics"))
        assert (told["task"], told["labels"]) == (Task.CLASSIFY, ("rivers", "films", "animals"))
        assert "task" not in view(models.find("absent"))


async def test_whoever_leaves_during_a_load_stops_nobody(tiny: Folder) -> None:
    async with fleet({"mean": ModelSettings(tiny("mean"))}) as models:
        model = models.find("mean")
        first = asyncio.create_task(ask(model))
        await until(lambda: model.state is not State.AVAILABLE)
        first.cancel()
        await ask(model)
        assert model.state is State.READY


async def test_preloaded_models_are_there_before_anyone_asks(tiny: Folder, tmp_path: Path) -> None:
    broken = ModelSettings(tmp_path / "absent", preload=True)
    good = ModelSettings(tiny("mean"), preload=True)
    async with fleet({"broken": broken, "good": good, "lazy": ModelSettings(tiny("cls"))}) as models:
        assert models.starting
        await until(lambda: not models.starting)
        assert states(models) == {"broken": State.FAILED, "good": State.READY, "lazy": State.AVAILABLE}


async def test_unloading_lets_requests_in_work_end_and_later_ones_load_again(tiny: Folder) -> None:
    async with fleet({"mean": ModelSettings(tiny("mean"))}) as models:
        model = models.find("mean")
        async with model.lease() as loaded:
            unloading = asyncio.create_task(model.unload(Reason.ASKED))
            later = asyncio.create_task(ask(model))
            await asyncio.sleep(0.02)
            assert not unloading.done()
            assert not later.done()
            await loaded.engine.submit(loaded.encoder.texts(["a cat"]), Priority.NORMAL)
        await unloading
        assert await later is not loaded
        await model.unload(Reason.ASKED)
        assert model.state is State.AVAILABLE
        assert model.loaded is None


async def test_unloading_what_is_not_loaded_is_nothing(tiny: Folder) -> None:
    async with fleet({"mean": ModelSettings(tiny("mean"))}) as models:
        await models.find("mean").unload(Reason.ASKED)
        assert states(models) == {"mean": State.AVAILABLE}


async def test_a_model_nobody_asks_for_goes_and_comes_back(tiny: Folder) -> None:
    async with fleet({"mean": ModelSettings(tiny("mean"), idle_unload_s=0.05)}) as models:
        model = models.find("mean")
        async with model.lease():
            await asyncio.sleep(0.1)  # longer than it may rest: it does not rest
            assert model.state is State.READY
        await until(lambda: model.state is State.IDLE)
        assert model.why == "nobody asked for it"
        await ask(model)
        assert model.state is State.READY


async def test_the_least_recently_used_makes_room(tiny: Folder) -> None:
    folders = {name: tiny(name) for name in ("mean", "cls", "last")}
    room = sum(map(size, folders.values())) - 1
    async with fleet({n: ModelSettings(f) for n, f in folders.items()}, memory_bytes={"cpu": room}) as models:
        await ask(models.find("mean"))
        await ask(models.find("cls"))
        await ask(models.find("mean"))
        await ask(models.find("last"))
        assert states(models) == {"mean": State.READY, "cls": State.IDLE, "last": State.READY}
        assert models.find("cls").why == "another model needed its memory"
        assert sum(model.reading().memory_bytes for model in models.models.values()) <= room


async def test_a_model_in_use_goes_last_and_only_when_it_is_done(tiny: Folder) -> None:
    folders = {name: tiny(name) for name in ("mean", "cls", "last")}
    room = sum(map(size, folders.values())) - 1
    async with fleet({n: ModelSettings(f) for n, f in folders.items()}, memory_bytes={"cpu": room}) as models:
        async with models.find("mean").lease():
            await ask(models.find("cls"))
            await ask(models.find("last"))
            # The one in use was used least recently.
            assert states(models) == {"mean": State.READY, "cls": State.IDLE, "last": State.READY}
        assert models.find("mean").state is State.READY


async def test_models_that_do_not_fit_together_take_turns(tiny: Folder) -> None:
    folders = {name: tiny(name) for name in ("mean", "cls", "last")}
    room = max(map(size, folders.values()))
    async with fleet({n: ModelSettings(f) for n, f in folders.items()}, memory_bytes={"cpu": room}) as models:
        await asyncio.gather(*(ask(models.find(name)) for name in list(folders) * 4))
        assert list(states(models).values()).count(State.READY) == 1
        text = models.metrics.text().decode()
    # Each load served all that waited for it.
    assert [f'loads_total{{model="{name}",result="ready"}} 1.0' in text for name in folders] == [True] * 3


async def test_wherever_a_client_leaves_nothing_is_held(tiny: Folder) -> None:
    folders = {name: tiny(name) for name in ("mean", "cls")}
    room = max(map(size, folders.values()))
    async with fleet({n: ModelSettings(f) for n, f in folders.items()}, memory_bytes={"cpu": room}) as models:
        for ticks in range(60):
            asked = [asyncio.create_task(ask(models.find(name))) for name in ("mean", "cls", "mean")]
            for _ in range(ticks):
                await asyncio.sleep(0.0005)
            asked[ticks % 3].cancel()
            asked[0].cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            assert not any(model.busy for model in models.models.values())
            assert [model.reading().requests for model in models.models.values()] == [0, 0]


async def test_a_model_larger_than_the_budget_fails_and_evicts_nobody(tiny: Folder) -> None:
    large = ModelSettings(tiny("cls"), memory_bytes=10**12)
    settings = {"mean": ModelSettings(tiny("mean")), "large": large}
    async with fleet(settings, memory_bytes={"cpu": 10**9}) as models:
        await ask(models.find("mean"))
        with pytest.raises(ServiceError, match=r"it takes 953,674\.3 MiB") as refused:
            await ask(models.find("large"))
        assert refused.value.code == "model_unavailable"
        assert states(models) == {"mean": State.READY, "large": State.FAILED}


async def test_a_failed_model_is_tried_again_later_or_when_told(tiny: Folder, tmp_path: Path) -> None:
    async with fleet({"late": ModelSettings(tmp_path / "late")}, retry_failed_s=3600) as models:
        model = models.find("late")
        with pytest.raises(ServiceError, match="folder does not exist") as refused:
            await ask(model)
        assert 3590 < int(refused.value.headers()["retry-after"]) <= 3600
        shutil.copytree(tiny("mean"), tmp_path / "late")
        with pytest.raises(ServiceError):
            await ask(model)
        await model.load()
        await ask(model)
        assert (model.state, model.why) == (State.READY, None)


async def test_a_failed_model_is_tried_again_after_a_while(tiny: Folder, tmp_path: Path) -> None:
    async with fleet({"late": ModelSettings(tmp_path / "late")}, retry_failed_s=0.01) as models:
        with pytest.raises(ServiceError):
            await ask(models.find("late"))
        shutil.copytree(tiny("mean"), tmp_path / "late")
        await asyncio.sleep(0.02)
        await ask(models.find("late"))


async def test_no_more_requests_are_in_work_than_a_model_may_have(tiny: Folder) -> None:
    async with fleet({"mean": ModelSettings(tiny("mean"), max_requests=2)}) as models:
        model = models.find("mean")
        async with model.lease(), model.lease():
            with pytest.raises(ServiceError) as refused:
                await ask(model)
            assert refused.value.status == 429
            assert "retry-after" in refused.value.headers()
        await ask(model)


async def test_closing_waits_for_requests_in_work(tiny: Folder) -> None:
    async with fleet({"mean": ModelSettings(tiny("mean"))}) as models:
        async with models.find("mean").lease() as loaded:
            closing = asyncio.create_task(models.close())
            await asyncio.sleep(0.02)
            assert not closing.done()
            assert await loaded.engine.submit(loaded.encoder.texts(["a cat"]), Priority.NORMAL)
        await closing
        assert states(models) == {"mean": State.AVAILABLE}


async def test_other_settings_touch_only_what_is_another(tiny: Folder) -> None:
    same, changed = ModelSettings(tiny("mean")), ModelSettings(tiny("cls"))
    async with fleet({"same": same, "changed": changed, "gone": ModelSettings(tiny("last"))}) as models:
        before = {name: await ask(models.find(name)) for name in models.models}
        new = {"same": same, "changed": ModelSettings(tiny("cls"), max_tokens=8), "new": ModelSettings(tiny("max"))}
        models.apply(Settings(version=1, models=new, threads=1))
        assert states(models) == {"same": State.READY, "changed": State.AVAILABLE, "new": State.AVAILABLE}
        assert await ask(models.find("same")) is before["same"]
        assert (await ask(models.find("changed"))).card.max_tokens == 8
        with pytest.raises(ServiceError, match="does not exist"):
            models.find("gone")


async def test_a_removed_model_serves_the_requests_that_it_has(tiny: Folder) -> None:
    settings = {"gone": ModelSettings(tiny("mean"))}
    async with fleet(settings) as models:
        model = models.find("gone")
        waiting = asyncio.create_task(ask(model))  # it is not even loaded
        await asyncio.sleep(0)
        models.apply(Settings(version=1, models={}, threads=1))
        loaded = await waiting
        assert loaded.width
        await until(lambda: model.loaded is None)


async def test_a_removed_model_gives_its_memory_to_others(tiny: Folder) -> None:
    room = {"cpu": max(size(tiny("mean")), size(tiny("cls")))}
    async with fleet({"gone": ModelSettings(tiny("mean"))}, memory_bytes=room) as models:
        model = models.find("gone")
        async with model.lease():
            models.apply(Settings(version=1, models={"new": ModelSettings(tiny("cls"))}, threads=1, memory_bytes=room))
            asked = asyncio.create_task(ask(models.find("new")))
            await asyncio.sleep(0.05)
            assert not asked.done()  # there is no room before the other one is gone
        await asked
        assert model.loaded is None
