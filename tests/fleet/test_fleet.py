"""Members of one fleet on a real Valkey: every rule, and mutants that break one each."""

import asyncio
import shutil
import time

import pytest

from service.errors import (
    BadCheckpoint,
    ModelInUse,
    ModelNotFound,
    ModelNotReady,
    Validation,
)
from service.fleet.fleet import Fleet
from service.fleet.member import FleetMember
from service.fleet.outcome import FleetOutcome
from service.fleet.wish import Wish
from service.models.bundle import Precision
from service.models.retention import Retention
from service.models.spec import ModelRef
from tests.bundles import put_model
from tests.fleet.world import A, B, World, until

# -- one act on all


async def test_the_first_process_takes_the_wish_from_the_folder(world):
    async with world() as place:
        one, two = await place.started("one"), await place.started("two")
        assert one.loaded == two.loaded == {"a@1"}
        assert one.aliases == two.aliases == {"default": "a@1"}


async def test_a_load_is_everywhere_when_it_is_answered(world):
    async with world() as place:
        one, two = await place.started("one"), await place.started("two")
        outcome = await one.fleet.load(B)
        assert two.loaded == {"a@1", "b@1"}
        assert [each.process for each in outcome.processes] == ["one", "two"]
        assert outcome.is_everywhere
        outcome = await two.fleet.unload(A)
        assert one.loaded == {"b@1"}
        assert outcome.is_everywhere


async def test_a_precision_and_a_pin_are_everywhere_and_a_pin_loads_nothing(world):
    async with world() as place:
        one, two = await place.started("one"), await place.started("two")
        await one.fleet.load(A, Precision.INT8)
        assert two.registry.get("a").precision is Precision.INT8
        n_made = len(two.factory.made)
        await one.fleet.load(A, None, Retention(pin=True))
        assert two.registry.info(A).retention.pin
        assert len(two.factory.made) == n_made
        three = await place.started("three")
        assert three.registry.info(A).retention.pin


async def test_a_folder_that_cannot_be_read_for_a_while_ends_nothing(world, tmp_path):
    async with world() as place:
        one = await place.started("one")
        away = tmp_path.with_name("away")
        tmp_path.rename(away)
        tmp_path.symlink_to(tmp_path)  # a loop: reading it is an error, and not an empty store
        change = asyncio.create_task(one.fleet.unload(A))
        await asyncio.sleep(0.3)
        tmp_path.unlink()
        away.rename(tmp_path)
        await change
        await one.fleet.load(B)
        assert one.loaded == {"b@1"}


@pytest.mark.parametrize("act", ["load", "unload", "set_alias"])
async def test_an_act_knows_a_version_that_another_process_has_stored(world, tmp_path, act):
    async with world() as place:
        one = await place.started("one")
        new = put_model(tmp_path, "c")
        acts = {
            "load": lambda: one.fleet.load(new),
            "unload": lambda: one.fleet.unload(new),
            "set_alias": lambda: one.fleet.set_alias("prod", new),
        }
        assert (await acts[act]()).is_everywhere


async def test_a_wanted_model_whose_files_are_gone_can_be_forgotten(world, tmp_path):
    async with world() as place:
        one = await place.started("one")
        await one.fleet.load(B)
        await one.freeze()
        shutil.rmtree(tmp_path / "b")
        again = await place.started("again")
        assert again.loaded == {"a@1"}
        (report,) = (each for each in (await again.fleet.view()).reports if each.process == "again")
        assert report.failed == {"b@1": "no model b@1 is stored"}
        await one.fleet.close()  # its report, in which the model is ready
        await again.fleet.delete(B)
        assert B not in again.member.wish.models
        await until(lambda: not again.member.errors)
        with pytest.raises(ModelNotFound):
            await again.fleet.delete(B)


async def test_what_cannot_be_is_refused_before_it_is_a_wish(world):
    async with world() as place:
        one = await place.started("one")
        before = one.member.wish
        with pytest.raises(ModelNotFound):
            await one.fleet.load(ModelRef("nothing", 1))
        with pytest.raises(Validation, match="CAROUSEL_AUTOLOAD"):
            await one.fleet.load(A, None, Retention(False, 5.0))
        with pytest.raises(Validation, match="alias would hide"):
            await one.fleet.set_alias("b", A)
        with pytest.raises(ModelNotFound):
            await one.fleet.remove_alias("prod")
        assert one.member.wish == before


async def test_a_trained_model_is_loaded_once_everywhere_although_all_publish_it(world):
    async with world() as place:
        one, two = await place.started("one"), await place.started("two")
        await asyncio.gather(*(each.fleet.publish(B, "prod") for each in (one, two)))
        assert one.loaded == two.loaded == {"a@1", "b@1"}
        assert one.aliases["prod"] == two.aliases["prod"] == "b@1"
        assert len(one.factory.made) == len(two.factory.made) == 2


async def test_a_published_model_that_was_unloaded_since_stays_so(world):
    async with world() as place:
        one, two = await place.started("one"), await place.started("two")
        await one.fleet.publish(B, None)
        await one.fleet.unload(B)
        await two.fleet.publish(B, None)
        assert one.loaded == two.loaded == {"a@1"}


async def test_a_version_that_another_process_has_loaded_is_not_deleted(world, tmp_path):
    async with world() as place:
        one, two = await place.started("one"), await place.started("two", autoload=True)
        (await two.registry.acquire("b")).release()  # on demand: it is no wish
        await two.fleet.view()  # it reports
        with pytest.raises(ModelInUse, match="process two"):
            await one.fleet.delete(B)
        await one.fleet.unload(B)
        await one.fleet.delete(B)
        assert not (tmp_path / "b" / "1").exists()
        await until(lambda: two.registry.failure(B) == "no model b@1 is stored")


# -- partial failure


async def test_a_process_that_fails_is_named_and_the_others_serve(world):
    async with world() as place:
        one, two = await place.started("one"), await place.started("two")
        two.factory.failure = BadCheckpoint("no such instruction")
        outcome = await one.fleet.load(B)
        assert one.loaded == {"a@1", "b@1"}
        (lacking,) = outcome.lacking
        assert lacking.process == "two"
        assert lacking.problem == "no such instruction"
        with pytest.raises(ModelNotReady, match="two: no such instruction"):
            await one.fleet.set_alias("prod", B)
        two.factory.failure = None  # tried again after a while
        await until(lambda: "b@1" in two.loaded)
        await two.fleet.view()  # it reports
        assert (await one.fleet.set_alias("prod", B)).is_everywhere


async def test_a_failure_of_all_is_the_error_of_the_one_that_was_asked(world):
    async with world() as place:
        one, two = await place.started("one"), await place.started("two")
        one.factory.failure = two.factory.failure = BadCheckpoint("no such instruction")
        with pytest.raises(BadCheckpoint, match="no such instruction"):
            await one.fleet.load(B)


async def test_a_change_that_does_not_wait_says_who_has_not_reached_it(world):
    async with world() as place:
        one, two = await place.started("one"), await place.started("two")
        two.factory.may_go_on.clear()
        outcome = await one.fleet.load(B, wait_s=0.0)
        assert "two" in {each.process for each in outcome.lacking}
        two.factory.may_go_on.set()
        await until(lambda: "b@1" in two.loaded)


# -- the alias barrier


async def alias_moves_before_all_are_ready(place: World, limit_s: float = 10.0) -> bool:
    """Whether an alias points at a model that a process has not loaded yet, within a time."""
    one, two = await place.started("one"), await place.started("two")
    two.factory.may_go_on.clear()
    await one.fleet.load(B, wait_s=0.0)
    await until(lambda: "b@1" in one.loaded)
    moving = asyncio.create_task(one.fleet.set_alias("prod", B))
    end = time.monotonic() + limit_s
    while not (is_moved := "prod" in one.member.wish.aliases) and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    too_early = is_moved and "b@1" not in two.loaded
    two.factory.may_go_on.set()
    await moving
    assert two.aliases["prod"] == "b@1"
    return too_early


async def test_an_alias_moves_when_all_have_its_target(world):
    async with world() as place:
        assert not await alias_moves_before_all_are_ready(place, 0.5)


class NoBarrier(Fleet):
    def _barrier(self, wish, reports, ref) -> FleetOutcome:  # noqa: ARG002
        return FleetOutcome()


async def test_mutant_without_the_barrier(world):
    async with world(fleet_class=NoBarrier) as place:
        assert await alias_moves_before_all_are_ready(place)


async def test_an_alias_of_a_model_that_nobody_shall_load_moves_at_once(world):
    async with world() as place:
        one, two = await place.started("one"), await place.started("two")
        assert (await one.fleet.set_alias("later", B)).is_everywhere
        assert two.aliases["later"] == "b@1"


async def test_an_alias_of_an_evicted_model_moves(world):
    async with world() as place:
        one = await place.started("one", autoload=True)
        two = await place.started("two", autoload=True)
        await one.fleet.load(B, None, Retention(False, 0.0))
        await until(lambda: "b@1" not in two.loaded)
        assert (await one.fleet.set_alias("prod", B)).is_everywhere


async def test_a_process_that_starts_loads_the_target_before_it_serves(world):
    async with world() as place:
        one = await place.started("one")
        two = place.process("two")
        two.factory.may_go_on.clear()
        two.start()
        await until(lambda: two.member.wish is not None)
        await one.fleet.load(B)  # it waits for no process that starts
        await one.fleet.set_alias("prod", B)
        assert not two.is_open.is_set()
        two.factory.may_go_on.set()
        await asyncio.wait_for(two.is_open.wait(), 10)
        assert two.loaded == {"a@1", "b@1"}
        assert two.aliases["prod"] == "b@1"


# -- conflicts, lost processes, a lost store


async def processes_disagree(place: World) -> bool:
    """Whether processes still have different targets of an alias that all have set at once."""
    names = ("one", "two", "three")
    every = [await place.started(name) for name in names]
    await every[0].fleet.load(B)
    targets = [A, B, A]
    moves = (one.fleet.set_alias("prod", ref) for one, ref in zip(every, targets, strict=True))
    await asyncio.gather(*moves)
    await asyncio.sleep(0.2)
    return len({one.aliases["prod"] for one in every}) > 1


async def test_aliases_that_are_set_at_once_end_as_one_everywhere(world):
    async with world() as place:
        assert not await processes_disagree(place)


class OwnWritesOnly(FleetMember):
    """Takes over what this process has written itself, and the first wish."""

    async def look(self) -> Wish:
        before = self.wish
        wish = await super().look()
        if before is not None:
            self.wish = before
        return wish


async def test_mutant_that_reads_its_own_writes_only(world):
    async with world(member_class=OwnWritesOnly) as place:
        one, two = await place.started("one"), await place.started("two")
        await one.fleet.set_alias("prod", A, wait_s=0.3)
        assert "prod" not in two.aliases


async def waits_for_a_dead_process(place: World) -> bool:
    """Whether a change still waits for a process that has died a while ago."""
    one, two = await place.started("one"), await place.started("two")
    await two.freeze()
    await asyncio.sleep(1.3)
    outcome = await one.fleet.load(B, wait_s=0.5)
    return not outcome.is_everywhere


async def test_a_dead_process_is_forgotten(world):
    async with world() as place:
        assert not await waits_for_a_dead_process(place)


async def test_mutant_without_a_lifetime_of_reports(world):
    async with world(lifetime_s=3_600.0) as place:
        assert await waits_for_a_dead_process(place)


async def test_a_process_that_dies_between_the_wish_and_the_load_loses_nothing(world):
    async with world() as place:
        one, two = await place.started("one"), await place.started("two")
        one.factory.may_go_on.clear()
        two.factory.may_go_on.clear()
        await one.fleet.load(B, wait_s=0.0)
        await one.freeze()
        two.factory.may_go_on.set()
        await until(lambda: "b@1" in two.loaded)
        again = await place.started("one-again")
        assert again.loaded == {"a@1", "b@1"}


async def test_a_store_that_restarts_keeps_the_wish(world, valkey):
    async with world() as place:
        one, two = await place.started("one"), await place.started("two")
        await one.fleet.load(B)
        valkey.restart()
        outcome = await two.fleet.set_alias("prod", B)
        await until(lambda: one.aliases.get("prod") == "b@1")
        assert {each.process for each in outcome.lacking} <= {"one"}


async def test_a_store_that_has_lost_the_wish_gets_it_from_a_process(world, valkey):
    async with world() as place:
        one, two = await place.started("one"), await place.started("two")
        await one.fleet.load(B)
        await one.fleet.set_alias("prod", B)
        valkey.client.flushall()
        await until(lambda: valkey.client.exists("carousel:{fleet}:rev") == 1)
        three = await place.started("three")
        assert three.loaded == one.loaded == two.loaded == {"a@1", "b@1"}
        assert three.aliases["prod"] == "b@1"


async def test_a_store_that_has_lost_the_last_change_is_believed(world, valkey):
    async with world() as place:
        one, two = await place.started("one"), await place.started("two")
        kept = {key: valkey.client.dump(key) for key in valkey.client.keys("carousel:*")}
        await one.fleet.load(B)
        for key, value in kept.items():
            valkey.client.restore(key, 0, value, replace=True)
        await two.fleet.set_alias("prod", A)  # the same number of revision, another change
        await until(lambda: one.aliases.get("prod") == "a@1")


async def test_a_repeated_write_whose_reply_was_lost_is_one(world):
    async with world() as place:
        one = await place.started("one")
        store, wish = one.member._store, one.member.wish
        written = await store.change(wish, wish.with_alias("prod", A))
        assert written is not None
        again = await store._client.call(
            "change",
            ("carousel:{fleet}:rev", "carousel:{fleet}:want", "carousel:{fleet}:alias"),
            ("x", f"{written.revision} {written.token}", 0, 0, 0, 0),
        )
        assert again == [1]
        assert await store.change(wish, wish.with_alias("prod", A)) is None
        assert isinstance(written, Wish)
