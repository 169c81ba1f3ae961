"""What owners have used is counted once, by day, and outlives the process."""

import asyncio
from datetime import UTC, datetime, timedelta

from service.limits.config import LimitConfig
from service.limits.usage import UsageLedger


def today():
    return datetime.now(UTC).date()


async def test_counts_of_processes_add_up_and_stay(store):
    ledgers = [UsageLedger(store.url, LimitConfig()) for _ in range(2)]
    for ledger in ledgers:
        ledger.add("ann", requests=1, prompt_tokens=10, generated_tokens=5)
        ledger.add("bob:x", requests=1)
    await asyncio.gather(*(ledger.close() for ledger in ledgers))
    later = UsageLedger(store.url, LimitConfig())
    later.add("ann", requests=1)
    found = await later.read(today() - timedelta(days=1), today())
    if found[0].day != found[-1].day:
        return  # midnight
    assert [(one.owner, one.counts["requests"]) for one in found] == [("ann", 3), ("bob:x", 2)]
    assert found[0].counts["prompt_tokens"] == 20
    assert found[0].counts["generated_tokens"] == 10
    assert [one.owner for one in await later.read(today(), today(), "bob:x")] == ["bob:x"]
    await later.close()


async def test_a_batch_whose_reply_was_lost_is_added_once(store):
    ledger = UsageLedger(store.url, LimitConfig())
    for batch in ("a", "a", "b", "b"):
        await ledger._client.call("add", ["day", "day:writer"], [60, batch, "requests:ann", 3])
    assert store.client.hget("day", "requests:ann") == b"6"
    await ledger.close()


async def test_a_process_that_writes_often_leaves_two_keys(store):
    before = store.client.dbsize()
    ledger = UsageLedger(store.url, LimitConfig())
    for _ in range(20):
        ledger.add("ann", requests=1)
        await ledger.flush()
    assert store.client.dbsize() - before <= 4  # at midnight; else 2
    await ledger.close()


async def test_counts_wait_for_a_store_that_does_not_answer(store):
    ledger = UsageLedger(store.url, LimitConfig(usage_flush_s=0.05))
    writing = asyncio.create_task(ledger.run())
    ledger.add("ann", requests=1)
    store.client.config_set("min-replicas-to-write", 1)  # it refuses writes
    try:
        await asyncio.sleep(0.2)
        ledger.add("ann", requests=1)
    finally:
        store.client.config_set("min-replicas-to-write", 0)
    (found,) = await ledger.read(today(), today())
    assert found.counts["requests"] == 2
    writing.cancel()
    await ledger.close()
