"""What the looks of a process take of the store: the same, however many processes there are."""

from dataclasses import replace

from service.fleet.report import ProcessPhase, ProcessReport
from service.models.spec import ModelRef
from tests.fleet.world import CONFIG, B


async def test_a_look_takes_no_more_where_there_are_more_processes(world, valkey):
    async with world() as place:
        one = await place.started("one")
        store = one.member._store

        async def bytes_of_looks() -> int:
            before = valkey.client.info("stats")["total_net_output_bytes"]
            for _ in range(20):
                await one.member.look()
            return valkey.client.info("stats")["total_net_output_bytes"] - before

        await one.freeze()  # its own looks would count too
        few = await bytes_of_looks()
        for i in range(200):
            await store.look(lambda i=i: ProcessReport(f"other-{i}", ProcessPhase.SERVING))
        many = await bytes_of_looks()
        assert len((await one.fleet.view()).reports) == 201
        assert many < 1.5 * few


async def test_a_look_takes_no_more_where_there_are_more_models(world, valkey):
    async with world() as place:
        one = await place.started("one")
        await one.freeze()
        wish = one.member.wish
        for i in range(200):
            wish = wish.with_unload(ModelRef(f"m{i}", 1))
        wish = await one.member._store.change(one.member.wish, wish)
        assert (await one.member.look()).is_as(wish)
        before = valkey.client.info("stats")["total_net_output_bytes"]
        assert await one.member.look() is one.member.wish
        assert valkey.client.info("stats")["total_net_output_bytes"] - before < 10_000


async def test_a_change_reads_the_reports_of_many_processes_seldom(world, valkey):
    config = replace(CONFIG, reports_per_s=400.0, look_s=60.0)
    async with world(config=config) as place:
        one = await place.started("one")
        for i in range(400):
            other = ProcessReport(f"other-{i}", ProcessPhase.SERVING)
            await one.member._store.look(lambda other=other: other)
        before = valkey.client.info("commandstats")["cmdstat_hvals"]["calls"]
        await one.fleet.load(B, wait_s=0.5)  # the others carry nothing out
        after = valkey.client.info("commandstats")["cmdstat_hvals"]["calls"]
        assert after - before == 2  # now, and when the time is over
