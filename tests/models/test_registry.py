import asyncio
import json
import logging
import shutil
from collections.abc import Callable

import pytest

from service.errors import (
    BadCheckpoint,
    MemoryBudgetExceeded,
    ModelInUse,
    ModelNotFound,
    ModelNotReady,
    ModelUnloaded,
    Validation,
)
from service.models.loaded_model import ModelStatus
from service.models.registry import Registry, RegistryConfig
from service.models.spec import ModelRef
from service.models.store import FILE_NAME, ModelStore, RegistryRecord
from tests.bundles import put_model
from tests.models.conftest import SIZE_BYTES


@pytest.fixture
def registry_of(tmp_path, factory) -> Callable[..., Registry]:
    """A registry over the store of this test, as a new process would create it."""
    return lambda **limits: Registry(ModelStore(tmp_path), factory, RegistryConfig(**limits))


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 (no event marks the condition)
        await asyncio.sleep(0.001)


def status_of(registry: Registry, ref: ModelRef) -> ModelStatus:
    return registry.info(ref).status


# -- what a start loads


async def test_a_store_without_models_opens(registry_of):
    registry = registry_of()
    await registry.open()
    with pytest.raises(ModelNotFound, match="none"):
        registry.get(None)


async def test_a_new_store_serves_the_newest_of_each_and_the_first_by_default(
    tmp_path, registry_of
):
    for name, version in [("zebra", 1), ("ant", 2), ("ant", 10)]:
        put_model(tmp_path, name, version=version)
    registry = registry_of()
    await registry.open()
    assert {str(model.ref) for model in registry.loaded()} == {"ant@10", "zebra@1"}
    assert registry.get(None).ref == ModelRef("ant", 10)


async def test_a_restart_serves_what_was_served(tmp_path, registry_of):
    first, second = put_model(tmp_path, "a"), put_model(tmp_path, "b")
    registry = registry_of()
    await registry.open()
    registry.set_alias("default", second)
    await registry.unload(first)
    again = registry_of()
    await again.open()
    assert again.get(None).ref == second
    with pytest.raises(ModelUnloaded, match="POST /admin/models/a@1/load"):
        again.get("a")


async def test_a_model_that_failed_is_tried_again_at_the_next_start(tmp_path, registry_of, factory):
    ref = put_model(tmp_path, "a")
    factory.failure = RuntimeError("no such instruction")
    registry = registry_of()
    await registry.open()
    assert status_of(registry, ref) is ModelStatus.FAILED
    registry.set_alias("other", ref)  # writes the record
    factory.failure = None
    again = registry_of()
    await again.open()
    assert again.get("other").ref == ref


async def test_a_model_that_failed_and_is_unloaded_is_not_tried_again(
    tmp_path, registry_of, factory
):
    ref = put_model(tmp_path, "a")
    factory.failure = RuntimeError("no such instruction")
    registry = registry_of()
    await registry.open()
    registry.set_alias("other", ref)  # writes the record
    await registry.unload(ref)
    factory.failure = None
    again = registry_of()
    await again.open()
    assert status_of(again, ref) is ModelStatus.STORED


async def test_a_model_that_fails_does_not_stop_the_others(tmp_path, registry_of, caplog):
    put_model(tmp_path, "a")
    (tmp_path / "a" / "1" / "weights.safetensors").write_bytes(b"nonsense")
    put_model(tmp_path, "b")
    registry = registry_of()
    await registry.open()
    assert registry.get("b").runtime.is_started
    with pytest.raises(ModelNotReady, match="not the file that the manifest describes"):
        registry.get("a")
    assert "a@1 cannot be loaded" in caplog.text


@pytest.mark.parametrize("content", ["{", "[]", '{"aliases": {"x": 3}, "loaded": []}', "{}"])
async def test_a_record_that_cannot_be_read_loads_everything_and_warns(
    tmp_path, registry_of, caplog, content
):
    put_model(tmp_path, "a")
    (tmp_path / FILE_NAME).write_text(content)
    registry = registry_of()
    await registry.open()
    assert registry.get(None).ref == ModelRef("a", 1)
    assert "cannot be read" in caplog.text


async def test_a_record_that_cannot_be_written_causes_only_a_warning(tmp_path, registry_of, caplog):
    ref = put_model(tmp_path, "a")
    (tmp_path / "registry.incoming").mkdir()
    registry = registry_of()
    with caplog.at_level(logging.WARNING):
        await registry.load(ref)
    assert registry.get("a").ref == ref
    assert "cannot be written" in caplog.text


async def test_models_that_are_no_longer_stored_are_removed_from_the_record(tmp_path, registry_of):
    put_model(tmp_path, "a")
    record = {"aliases": {"default": "a@1", "lost": "b@1"}, "loaded": ["a@1", "b@1"]}
    (tmp_path / FILE_NAME).write_text(json.dumps(record))
    registry = registry_of()
    await registry.open()
    assert list(registry.aliases) == ["default"]


# -- names


async def test_a_bare_name_is_its_newest_loaded_version_else_its_newest(tmp_path, registry_of):
    for version in (1, 2, 3):
        put_model(tmp_path, "a", version=version)
    registry = registry_of()
    assert registry.resolve("a") == ModelRef("a", 3)
    await registry.load(ModelRef("a", 1))
    assert registry.resolve("a") == ModelRef("a", 1)
    assert registry.resolve("a@2") == ModelRef("a", 2)


@pytest.mark.parametrize("name", ["b", "a@9", "nobody@1"])
async def test_an_unknown_name_is_not_found(tmp_path, registry_of, name):
    put_model(tmp_path, "a")
    with pytest.raises(ModelNotFound, match="loaded: none; stored and not loaded: a"):
        registry_of().resolve(name)


@pytest.mark.parametrize("alias", ["", "A", "../a", "a" * 65, "a@1"])
async def test_an_alias_is_a_plain_name(tmp_path, registry_of, alias):
    ref = put_model(tmp_path, "a")
    with pytest.raises(Validation):
        registry_of().set_alias(alias, ref)


async def test_the_first_model_of_an_empty_store_becomes_the_default(tmp_path, registry_of):
    registry = registry_of()
    await registry.open()
    ref = put_model(tmp_path, "a")
    registry.refresh()
    await registry.load(ref)
    assert registry.get(None).ref == ref


# -- loading


async def test_a_model_that_is_being_loaded_is_not_ready(tmp_path, registry_of, factory):
    put_model(tmp_path, "a")
    put_model(tmp_path, "b")
    factory.may_go_on.clear()
    registry = registry_of()
    opening = asyncio.create_task(registry.open())
    await until(lambda: status_of(registry, ModelRef("a", 1)) is ModelStatus.LOADING)
    for name in ("a", "b"):  # the loading of b has not started
        with pytest.raises(ModelNotReady, match="being loaded"):
            registry.get(name)
    assert ModelRef("a", 1) in registry.loading()  # a scrape keeps what its load has observed
    assert list(registry.in_memory()) == []
    factory.may_go_on.set()
    await opening
    assert registry.get("b").runtime.is_started


async def test_a_loaded_model_serves_until_the_new_one_is_ready_and_its_generations_have_ended(
    tmp_path, registry_of, factory
):
    ref = put_model(tmp_path, "a")
    registry = registry_of()
    await registry.load(ref)
    old = registry.get("a").runtime
    old.is_idle.clear()
    factory.may_go_on.clear()
    loading = asyncio.create_task(registry.load(ref))
    await asyncio.sleep(0.01)
    assert registry.get("a").runtime is old
    factory.may_go_on.set()
    await loading
    assert registry.get("a").runtime is not old
    await until(lambda: old.is_draining)
    assert not old.is_closed
    old.is_idle.set()
    await until(lambda: old.is_closed)
    assert not old.was_cut


async def test_a_load_that_fails_leaves_the_old_one_serving(tmp_path, registry_of, factory):
    ref = put_model(tmp_path, "a")
    registry = registry_of()
    await registry.load(ref)
    old = registry.get("a").runtime
    factory.failure = ValueError("secret path")
    with pytest.raises(BadCheckpoint) as refused:
        await registry.load(ref)
    assert "secret" not in str(refused.value)
    assert registry.get("a").runtime is old
    assert not old.is_draining


async def test_a_version_that_another_process_stored_is_found(tmp_path, registry_of):
    registry = registry_of()
    ref = put_model(tmp_path, "late")
    registry.refresh()
    await registry.load(ref)
    assert registry.get("late").ref == ref


# -- the budget


async def test_the_budget_is_kept_even_by_loads_at_the_same_time(tmp_path, registry_of):
    refs = [put_model(tmp_path, name) for name in "abc"]
    registry = registry_of(budget_bytes=2 * SIZE_BYTES)
    outcomes = await asyncio.gather(*map(registry.load, refs), return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, MemoryBudgetExceeded)]
    assert len(refused) == 1
    assert f"needs about {SIZE_BYTES:,} bytes; {2 * SIZE_BYTES:,} of the budget" in str(refused[0])


async def test_a_model_that_is_unloaded_or_fails_frees_its_share(tmp_path, registry_of, factory):
    first, second = put_model(tmp_path, "a"), put_model(tmp_path, "b")
    registry = registry_of(budget_bytes=SIZE_BYTES)
    factory.failure = RuntimeError("no")
    with pytest.raises(BadCheckpoint):
        await registry.load(first)
    factory.failure = None
    await registry.load(first)
    with pytest.raises(MemoryBudgetExceeded):
        await registry.load(second)
    await registry.unload(first)
    await registry.load(second)


# -- unloading and deleting


async def test_unloading_answers_at_once_and_accepts_nothing_new(tmp_path, registry_of):
    keep, ref = put_model(tmp_path, "keep"), put_model(tmp_path, "a")
    registry = registry_of()
    await registry.load(keep)  # it is the default
    await registry.load(ref)
    runtime = registry.get("a").runtime
    runtime.is_idle.clear()
    await registry.unload(ref)
    assert status_of(registry, ref) is ModelStatus.DRAINING
    assert registry.info(ref).size_bytes == SIZE_BYTES, "it still has its memory"
    with pytest.raises(ModelUnloaded):
        registry.get("a")
    with pytest.raises(ModelInUse, match="it is draining"):
        await registry.delete(ref)
    assert not runtime.is_closed
    await registry.unload(ref)
    assert status_of(registry, ref) is ModelStatus.DRAINING
    runtime.is_idle.set()
    await until(lambda: status_of(registry, ref) is ModelStatus.STORED)
    assert runtime.is_closed
    assert not runtime.was_cut
    await registry.unload(ref)  # does nothing any more


async def test_a_second_unloading_may_end_what_runs(tmp_path, registry_of):
    ref = put_model(tmp_path, "a")
    registry = registry_of()
    await registry.load(ref)
    runtime = registry.get("a").runtime
    runtime.is_idle.clear()
    await registry.unload(ref)
    await registry.unload(ref, 0.0)
    await until(lambda: status_of(registry, ref) is ModelStatus.STORED)
    assert runtime.was_cut
    assert runtime.is_closed


async def test_a_model_is_loaded_again_while_its_old_runtime_drains(tmp_path, registry_of):
    ref = put_model(tmp_path, "a")
    registry = registry_of()
    await registry.load(ref)
    old = registry.get("a").runtime
    old.is_idle.clear()
    await registry.unload(ref)
    await registry.load(ref)
    assert status_of(registry, ref) is ModelStatus.READY
    assert registry.get("a").runtime is not old
    old.is_idle.set()
    await until(lambda: old.is_closed)
    await asyncio.sleep(0.01)
    assert status_of(registry, ref) is ModelStatus.READY


async def test_only_a_model_neither_loaded_nor_aliased_is_deleted(tmp_path, registry_of):
    keep, ref = put_model(tmp_path, "keep"), put_model(tmp_path, "a")
    registry = registry_of()
    await registry.load(keep)
    await registry.load(ref)
    with pytest.raises(ModelInUse, match="it is ready"):
        await registry.delete(ref)
    registry.set_alias("other", ref)
    await registry.unload(ref)
    with pytest.raises(ModelInUse, match="alias 'other'"):
        await registry.delete(ref)
    registry.set_alias("other", keep)
    await registry.delete(ref)
    assert not (tmp_path / "a" / "1").exists()
    with pytest.raises(ModelNotFound):
        await registry.delete(ref)


async def test_a_deletion_loses_against_a_load_that_came_first(tmp_path, registry_of, factory):
    put_model(tmp_path, "keep")
    ref = put_model(tmp_path, "a")
    registry = registry_of()
    await registry.load(ModelRef("keep", 1))
    factory.may_go_on.clear()
    loading = asyncio.create_task(registry.load(ref))
    await asyncio.sleep(0)
    with pytest.raises(ModelInUse):
        await registry.delete(ref)
    factory.may_go_on.set()
    await loading
    assert registry.get("a").runtime.is_started


async def test_closing_cancels_at_the_deadline_even_a_replaced_runtime(
    tmp_path, registry_of, factory
):
    ref = put_model(tmp_path, "a")
    registry = registry_of()
    await registry.load(ref)
    factory.made[0].is_idle.clear()
    await registry.load(ref)
    await until(lambda: factory.made[0].is_draining)
    await registry.close(0.01)
    assert all(runtime.is_closed for runtime in factory.made)
    assert [runtime.was_cut for runtime in factory.made] == [True, False]


# -- files that somebody has deleted


async def test_an_alias_of_a_version_that_is_not_stored_is_no_model(tmp_path, registry_of):
    put_model(tmp_path, "a")
    registry = registry_of()
    await registry.open()
    registry.adopt_aliases({"default": ModelRef("a", 1), "prod": ModelRef("gone", 1)})
    with pytest.raises(ModelNotFound, match="no model gone@1 is stored"):
        registry.get("prod")
    with pytest.raises(ModelNotFound, match="no model gone@1 is stored"):
        await registry.acquire("prod")


async def test_a_default_that_failed_and_is_deleted_still_has_its_stand_in(tmp_path, registry_of):
    put_model(tmp_path, "a", version=1)
    put_model(tmp_path, "a", version=2)
    (tmp_path / "a" / "2" / "weights.safetensors").write_bytes(b"nonsense")
    registry = registry_of()
    default = {"default": ModelRef("a", 2)}
    await registry.open(RegistryRecord((ModelRef("a", 2),), default))
    shutil.rmtree(tmp_path / "a" / "2")
    registry.refresh()
    registry.adopt_aliases(default)
    assert registry.get(None).ref == ModelRef("a", 1)
