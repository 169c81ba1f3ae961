import asyncio
import contextlib
import json
import random
from collections.abc import Callable

import pytest

from service.errors import (
    MemoryBudgetExceeded,
    ModelNotReady,
    ModelUnloaded,
    Validation,
)
from service.models.cell import LayerSpec
from service.models.loaded_model import ModelStatus
from service.models.registry import Registry
from service.models.retention import Resident, Retention, choose_victims
from service.models.spec import ModelRef, ModelSpec
from service.models.store import FILE_NAME, RegistryRecord
from tests.bundles import put_model
from tests.models.conftest import SIZE_BYTES

LARGE = ModelSpec(3, None, (LayerSpec("lstm", 4),))


async def opened(registry: Registry) -> Registry:
    await registry.open()
    return registry


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 (no event marks the condition)
            await asyncio.sleep(0.001)


async def settle() -> None:
    """Let every task go as far as it can without a thread."""
    for _ in range(50):
        await asyncio.sleep(0)


async def use(registry: Registry, name: str) -> None:
    (await registry.acquire(name)).release()


def ready(registry: Registry) -> set[str]:
    return {model.ref.name for model in registry.loaded()}


# -- which model is evicted


def resident(name: str, **changes) -> Resident:
    values = {"size_bytes": 1, "is_in_use": False, "is_kept": False}
    times = {"loaded_s": 0.0, "last_used_s": 0.0}
    return Resident(ModelRef(name, 1), **(values | times | changes))


@pytest.mark.parametrize(
    ("residents", "needed", "victims"),
    [
        ([], 1, ""),
        ([resident("a", last_used_s=5), resident("b", last_used_s=4)], 1, "b"),
        ([resident("a", last_used_s=5), resident("b", last_used_s=4)], 2, "ba"),
        ([resident("a", last_used_s=5), resident("b", last_used_s=4)], 3, ""),
        ([resident("a", is_in_use=True), resident("b", last_used_s=9)], 1, "b"),
        ([resident("a", is_in_use=True), resident("b", last_used_s=9)], 2, ""),
        ([resident("a", is_kept=True), resident("b", last_used_s=9)], 1, "b"),
        ([resident("a", is_kept=True), resident("b", is_in_use=True)], 1, ""),
        ([resident("a", loaded_s=95.0), resident("b", last_used_s=9)], 1, "b"),
        ([resident("a", loaded_s=95.0), resident("b", last_used_s=9)], 2, "ba"),
        ([resident("a", loaded_s=95.0), resident("b", is_in_use=True)], 1, "a"),
        ([resident("a", last_used_s=1), resident("b", last_used_s=2, size_bytes=9)], 5, "ab"),
    ],
)
def test_the_victims_are_the_least_recently_used_that_are_free(residents, needed, victims):
    found = choose_victims(residents, needed, 100.0, 10.0)
    assert "".join(ref.name for ref in found) == victims


async def test_the_least_recently_used_model_makes_room(registry_of, refs, factory):
    registry = await opened(registry_of(2, min_resident_s=0.0))
    for name in "abac":
        await use(registry, name)
    assert ready(registry) == {"a", "c"}
    assert [runtime.is_closed for runtime in factory.made] == [False, True, False]
    assert registry.info(refs["b"]).status is ModelStatus.STORED
    assert registry.budget.used_bytes == 2 * SIZE_BYTES


async def test_a_large_model_makes_room_by_bytes_not_by_number(tmp_path, registry_of):
    large = put_model(tmp_path, "large", LARGE)
    registry = await opened(registry_of(4))
    for name in "abc":
        await use(registry, name)
    n_evicted = -(-(8 * LARGE.parameters - SIZE_BYTES) // SIZE_BYTES)
    assert 1 < n_evicted <= 3
    await use(registry, str(large))
    assert len(ready(registry)) == 1 + 3 - n_evicted


async def test_a_model_that_a_request_holds_is_not_evicted(registry_of, refs, factory):
    registry = await opened(registry_of(1))
    lease = await registry.acquire("a")
    waiting = asyncio.create_task(registry.acquire("b"))
    await settle()
    await asyncio.sleep(0.3)  # longer than the poll for models that became free
    assert not waiting.done()
    assert not factory.made[0].is_draining
    lease.release()
    assert (await waiting).model.ref == refs["b"]
    assert factory.made[0].is_closed


async def test_a_model_whose_generation_runs_on_without_a_client_is_not_evicted(
    registry_of, factory
):
    registry = await opened(registry_of(1))
    await use(registry, "a")
    factory.made[0].is_idle.clear()
    waiting = asyncio.create_task(registry.acquire("b"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    assert not factory.made[0].is_draining
    factory.made[0].is_idle.set()
    await waiting
    assert not factory.made[0].was_cut


async def test_pinned_models_and_the_default_stay_and_what_cannot_fit_is_refused_at_once(
    registry_of, refs
):
    registry = await opened(registry_of(2, load_wait_s=60.0))
    await use(registry, "d")
    await registry.load(refs["a"], None, Retention(pin=True))
    async with asyncio.timeout(5):
        with pytest.raises(MemoryBudgetExceeded, match=f"have {2 * SIZE_BYTES:,} of it"):
            await registry.acquire("b")
    assert ready(registry) == {"a", "d"}
    assert registry.info(refs["b"]).status is ModelStatus.STORED
    await registry.load(refs["a"], None, Retention())
    await use(registry, "b")
    assert ready(registry) == {"b", "d"}


async def test_a_load_waits_for_room_for_its_time_and_no_longer(registry_of):
    registry = await opened(registry_of(1, load_wait_s=0.2))
    lease = await registry.acquire("a")
    with pytest.raises(MemoryBudgetExceeded, match=r"in use for 0\.2 s.*CAROUSEL_LOAD_WAIT_S"):
        await registry.acquire("b")
    lease.release()
    await use(registry, "b")  # it is not `failed`


async def test_nothing_is_evicted_for_a_model_that_does_not_fit_even_then(
    tmp_path, registry_of, factory
):
    large = put_model(tmp_path, "large", LARGE)
    assert 8 * LARGE.parameters > SIZE_BYTES * 2
    registry = await opened(registry_of(3, load_wait_s=0.2))
    await use(registry, "a")
    leases = [await registry.acquire(name) for name in "bc"]
    with pytest.raises(MemoryBudgetExceeded):
        await registry.acquire(str(large))
    assert ready(registry) == {"a", "b", "c"}
    for lease in leases:
        lease.release()
    await use(registry, str(large))
    assert factory.made[-1].is_started


async def test_a_model_that_cannot_be_replaced_beside_itself_is_refused_at_once(registry_of, refs):
    registry = await opened(registry_of(1, load_wait_s=60.0))
    await registry.load(refs["a"])
    async with asyncio.timeout(5):
        with pytest.raises(MemoryBudgetExceeded, match="one that is replaced"):
            await registry.load(refs["a"])
    assert ready(registry) == {"a"}


async def test_a_request_does_not_wait_for_the_generations_of_a_model_that_is_unloaded(
    registry_of, refs, factory
):
    registry = await opened(registry_of(2))
    await use(registry, "a")
    factory.made[0].is_idle.clear()
    unloading = asyncio.create_task(registry.unload(refs["a"]))
    await until(lambda: factory.made[0].is_draining)
    async with asyncio.timeout(5):
        lease = await registry.acquire("a")
    assert lease.model.runtime is factory.made[1]
    assert not factory.made[0].is_closed
    assert registry.budget.used_bytes == 2 * SIZE_BYTES
    factory.made[0].is_idle.set()
    await unloading
    await until(lambda: factory.made[0].is_closed)
    assert registry.budget.used_bytes == SIZE_BYTES
    lease.release()


# -- the lease


async def test_the_lease_is_taken_before_the_load_so_that_no_one_evicts_between(
    registry_of, refs, factory
):
    registry = await opened(registry_of(1))
    factory.may_go_on.clear()
    first = asyncio.create_task(registry.acquire("a"))
    await until(lambda: registry.info(refs["a"]).status is ModelStatus.LOADING)
    second = asyncio.create_task(registry.acquire("b"))
    await settle()
    factory.may_go_on.set()
    lease = await first
    await settle()
    assert lease.model.ref == refs["a"]
    assert not lease.model.runtime.is_draining
    assert not second.done()
    lease.release()
    (await second).release()


async def test_a_model_with_no_time_to_live_still_serves_the_request_that_has_it_loaded(
    tmp_path, registry_of, refs
):
    RegistryRecord((), {"default": refs["d"]}, {refs["a"]: Retention(keep_alive_s=0.0)}).write(
        tmp_path
    )
    registry = await opened(registry_of(sweep_s=0.0))  # looks in every turn of the event loop
    for _ in range(5):
        lease = await registry.acquire("a")
        await settle()
        assert not lease.model.runtime.is_draining
        lease.release()
        await until(lambda: registry.budget.used_bytes == 0)
    await registry.close(1.0)


async def test_requests_for_one_model_await_one_load(registry_of, refs, factory):
    registry = await opened(registry_of())
    leases = await asyncio.gather(*(registry.acquire("a") for _ in range(20)))
    assert len(factory.made) == 1
    assert registry.info(refs["a"]).leases == 20
    for lease in leases:
        lease.release()
        lease.release()  # does nothing the second time
    assert registry.info(refs["a"]).leases == 0


async def test_a_request_that_goes_away_does_not_cancel_the_load(registry_of, refs, factory):
    registry = await opened(registry_of())
    factory.may_go_on.clear()
    leaves = asyncio.create_task(registry.acquire("a"))
    stays = asyncio.create_task(registry.acquire("a"))
    await until(lambda: registry.info(refs["a"]).status is ModelStatus.LOADING)
    leaves.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await leaves
    factory.may_go_on.set()
    assert (await stays).model.ref == refs["a"]
    assert registry.info(refs["a"]).leases == 1


async def test_a_load_that_everyone_has_left_is_kept_for_the_next(registry_of, refs, factory):
    registry = await opened(registry_of())
    factory.may_go_on.clear()
    leaves = asyncio.create_task(registry.acquire("a"))
    await until(lambda: registry.info(refs["a"]).status is ModelStatus.LOADING)
    leaves.cancel()
    factory.may_go_on.set()
    await until(lambda: "a" in ready(registry))
    await use(registry, "a")
    assert len(factory.made) == 1


async def test_a_request_for_a_model_that_is_just_evicted_loads_it_again(registry_of, refs):
    registry = await opened(registry_of(1))
    await use(registry, "a")
    to_b = asyncio.create_task(use(registry, "b"))
    await until(lambda: registry.info(refs["a"]).status is not ModelStatus.READY)
    await use(registry, "a")
    await to_b
    assert registry.budget.used_bytes == SIZE_BYTES


async def test_loads_at_the_same_time_count_from_their_reservation(registry_of, factory):
    registry = await opened(registry_of(1))
    factory.may_go_on.clear()
    tasks = [asyncio.create_task(use(registry, name)) for name in "abc"]
    await asyncio.sleep(0.05)
    assert registry.budget.used_bytes == SIZE_BYTES
    factory.may_go_on.set()
    await asyncio.gather(*tasks)
    assert len(ready(registry)) == 1


async def test_random_requests_never_exceed_the_budget_nor_lose_a_model_they_use(
    tmp_path, registry_of, factory
):
    names = [put_model(tmp_path, f"m{i}").name for i in range(8)] + ["d"]
    registry = await opened(registry_of(3, load_wait_s=60.0))
    source, problems = random.Random(5), []

    async def client() -> None:
        for _ in range(25):
            lease = await registry.acquire(source.choice(names))
            runtime = lease.model.runtime
            for _ in range(source.randrange(4)):
                await asyncio.sleep(0.0005)
                if runtime.is_draining or registry.budget.used_bytes > 3 * SIZE_BYTES:
                    problems.append(lease.model.ref)
            lease.release()

    await asyncio.gather(*(client() for _ in range(12)))
    assert problems == []
    assert len(factory.made) > 20  # it did evict
    assert sum(not runtime.is_closed for runtime in factory.made) == len(ready(registry)) <= 3


# -- loads on demand


async def test_without_autoload_a_request_loads_nothing(registry_of, refs, factory):
    registry = await opened(registry_of(autoload=False))
    with pytest.raises(ModelUnloaded, match="POST /admin/models/a@1/load"):
        await registry.acquire("a")
    assert factory.made == []
    assert registry.info(refs["a"]).leases == 0


async def test_without_autoload_a_load_evicts_only_if_it_asks_to(registry_of, refs):
    registry = await opened(registry_of(1, autoload=False))
    await registry.load(refs["a"])
    with pytest.raises(MemoryBudgetExceeded, match="unload another model first"):
        await registry.load(refs["b"])
    assert ready(registry) == {"a"}
    await registry.load(refs["b"], evict=True)
    assert ready(registry) == {"b"}


async def test_a_model_that_fails_is_not_tried_by_every_request(registry_of, factory):
    registry = await opened(registry_of(retry_failed_s=0.2))
    factory.failure = RuntimeError("no such instruction")
    with pytest.raises(ModelNotReady, match="cannot be compiled here"):
        await registry.acquire("a")
    factory.failure = None
    with pytest.raises(ModelNotReady, match="could not be loaded"):
        await registry.acquire("a")
    await asyncio.sleep(0.25)
    await use(registry, "a")


async def test_a_start_loads_what_fits_and_leaves_the_rest_to_the_requests(
    tmp_path, registry_of, refs
):
    (tmp_path / FILE_NAME).unlink()
    registry = await opened(registry_of(2))
    assert ready(registry) == {"a", "b"}  # a is the default of a new store
    assert registry.info(refs["c"]).status is ModelStatus.STORED
    await use(registry, "c")
    assert ready(registry) == {"a", "c"}


async def test_a_start_does_not_load_again_what_requests_have_loaded(registry_of, refs, factory):
    registry = registry_of(4)
    await registry.load(refs["a"])
    await registry.load(refs["b"])
    factory.made.clear()
    again = registry_of(4)
    factory.may_go_on.clear()
    opening = asyncio.create_task(again.open())
    await until(lambda: again.info(refs["a"]).status is ModelStatus.LOADING)
    lease = asyncio.create_task(again.acquire("b"))
    await settle()
    factory.may_go_on.set()
    await asyncio.gather(opening, lease)
    assert len(factory.made) == 2


# -- how long a model stays


async def test_a_model_with_no_time_leaves_with_its_last_request(registry_of, refs, factory):
    registry = await opened(registry_of())
    await registry.load(refs["a"], None, Retention(keep_alive_s=0.0))
    first, second = await registry.acquire("a"), await registry.acquire("a")
    first.release()
    assert ready(registry) == {"a"}
    second.release()
    await until(lambda: registry.budget.used_bytes == 0)
    assert factory.made[0].is_closed


async def test_a_model_leaves_when_its_time_has_passed_and_a_pinned_one_stays(registry_of, refs):
    registry = await opened(registry_of(4, sweep_s=0.01))
    await registry.load(refs["a"], None, Retention(keep_alive_s=0.1))
    await registry.load(refs["b"], None, Retention(pin=True, keep_alive_s=0.1))
    await registry.load(refs["c"])
    lease = await registry.acquire("a")
    await asyncio.sleep(0.2)
    assert ready(registry) == {"a", "b", "c"}
    lease.release()
    await until(lambda: ready(registry) == {"b", "c"})
    await registry.close(1.0)


async def test_pins_and_times_survive_a_restart_and_evictions_do_not_change_the_record(
    tmp_path, registry_of, refs
):
    registry = await opened(registry_of(2))
    await registry.load(refs["a"], None, Retention(pin=True))
    await registry.load(refs["b"], None, Retention(keep_alive_s=60.0))
    await use(registry, "c")
    assert ready(registry) == {"a", "c"}
    record = json.loads((tmp_path / FILE_NAME).read_text())
    assert record["loaded"] == ["a@1", "b@1"]
    again = await opened(registry_of(4))
    assert ready(again) == {"a", "b"}
    assert again.info(refs["a"]).retention == Retention(pin=True)
    assert again.info(refs["b"]).retention == Retention(keep_alive_s=60.0)
    await asyncio.gather(registry.close(1.0), again.close(1.0))


async def test_a_loaded_model_is_pinned_without_a_second_load(registry_of, refs, factory):
    registry = await opened(registry_of(1, autoload=False))
    await registry.load(refs["a"])
    await registry.load(refs["a"], None, Retention(pin=True))
    assert len(factory.made) == 1
    assert registry.info(refs["a"]).retention.pin


async def test_a_time_is_refused_where_nothing_would_load_the_model_again(registry_of, refs):
    registry = await opened(registry_of(autoload=False))
    with pytest.raises(Validation, match="CAROUSEL_AUTOLOAD=true"):
        await registry.load(refs["a"], None, Retention(keep_alive_s=60.0))
    assert ready(registry) == set()
