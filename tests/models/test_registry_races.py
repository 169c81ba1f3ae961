"""Loads, unloads and evictions that meet: nothing is deleted while it writes, no load fails."""

import asyncio
import shutil
import threading
import time

import pytest

from service.errors import MemoryBudgetExceeded, ModelInUse
from service.models.bundle import MANIFEST
from service.models.loaded_model import ModelStatus
from service.models.registry import Registry, RegistryConfig
from service.models.retention import Retention
from service.models.spec import ModelRef
from service.models.store import ModelStore, RegistryRecord
from tests.bundles import put_model
from tests.models.conftest import SIZE_BYTES


async def test_a_model_that_drains_stays_so_when_its_load_has_no_room(registry_of, refs, factory):
    registry = registry_of(1, load_wait_s=0.2)
    await registry.open()
    (await registry.acquire("a")).release()
    factory.made[0].is_idle.clear()
    await registry.unload(refs["a"])
    with pytest.raises(MemoryBudgetExceeded):
        await registry.acquire("a")
    assert registry.info(refs["a"]).status is ModelStatus.DRAINING
    assert [model.ref for model in registry.in_memory()] == [refs["a"]]
    with pytest.raises(ModelInUse):
        await registry.delete(refs["a"])
    await registry.close(0)


async def test_a_load_of_the_victim_of_another_load_waits_for_neither(registry_of, refs):
    registry = registry_of(2, load_wait_s=5.0, min_resident_s=0.0)
    await registry.open()
    for name in "ab":
        (await registry.acquire(name)).release()
    async with asyncio.timeout(4):
        await asyncio.gather(registry.load(refs["c"]), registry.load(refs["a"]))
    assert {model.ref.name for model in registry.loaded()} == {"a", "c"}
    await registry.close(0)


async def test_a_request_takes_the_model_that_another_load_has_made_ready(registry_of, refs):
    registry = registry_of(1)
    await registry.open()
    (await registry.acquire("a")).release()
    registry._residency._evict(refs["a"], registry._entries[refs["a"]])
    await asyncio.sleep(0)
    request = asyncio.create_task(registry.acquire("a"))
    for _ in range(3):
        await asyncio.sleep(0)
    await registry.load(refs["a"])
    (await request).release()
    await registry.close(0)


async def test_an_unload_during_the_start_holds(tmp_path, refs, factory):
    RegistryRecord((refs["a"], refs["b"]), {}).write(tmp_path)
    factory.may_go_on.clear()
    registry = Registry(ModelStore(tmp_path), factory, RegistryConfig(10 * SIZE_BYTES))
    start = asyncio.create_task(registry.open())
    await asyncio.sleep(0.05)
    await registry.unload(refs["b"])
    factory.may_go_on.set()
    await start
    assert registry.info(refs["b"]).status is ModelStatus.STORED
    await registry.close(0)


async def test_a_model_whose_time_has_passed_is_not_evicted_for_another(registry_of, refs):
    registry = registry_of(3)
    await registry.open()
    await registry.load(refs["a"], retention=Retention(keep_alive_s=0.0))
    async with asyncio.timeout(10):
        while registry.info(refs["a"]).status is not ModelStatus.STORED:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert not registry.evictions
    await registry.close(0)


def test_versions_are_listed_while_others_are_deleted(tmp_path):
    put_model(tmp_path, "stays")
    is_over = threading.Event()

    def come_and_go():
        for n in range(1_000_000):
            if is_over.is_set():
                return
            version = tmp_path / f"goes-{n % 7}" / "1"
            version.mkdir(parents=True)
            (version / MANIFEST).write_text("{}")
            hidden = tmp_path / f".deleted-{n}"
            version.rename(hidden)
            version.parent.rmdir()
            shutil.rmtree(hidden)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        until_s = time.monotonic() + 2
        while time.monotonic() < until_s:
            assert ModelRef("stays", 1) in ModelStore(tmp_path).refs()
    finally:
        is_over.set()
        thread.join()
