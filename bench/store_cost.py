"""What one Valkey computes and keeps: processor time of each script, a session's bytes at rest."""

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import caption, machine
from bench.seed_model import SPEC, VOCABULARY
from service.fleet.config import FleetConfig
from service.fleet.fleet_store import FleetStore
from service.fleet.report import ProcessPhase, ProcessReport
from service.fleet.wish import Wish
from service.models.spec import ModelRef
from service.models.step import State
from service.sessions.codec import Export, pack_state, pack_tokens
from service.sessions.config import SessionConfig, ValkeyConfig
from service.sessions.embedded import EmbeddedValkey
from service.sessions.log_checksum import LogChecksum
from service.sessions.session import SessionKey, TurnStatus, token_width
from service.sessions.signing import Signer
from service.sessions.store import Store
from service.sessions.store_client import StoreClient, names_of, open_client
from service.sessions.store_replies import CommitEntry, random_id

SESSIONS, TOKENS, AT_ONCE, TURN = 4_000, 1_000, 64, 16
DIGEST = "ab" * 32
PROCESSES, MODELS = (10, 1_000, 10_000), 3


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Store, StoreClient]]:
    """A store of sessions, and a client that asks the server what it has used."""
    config = SessionConfig()
    clients = open_client(url, config), open_client(url, config)
    store = Store(*clients, Signer(b"b" * 32), "bench", config, names_of(url))
    yield store, clients[0]
    await store.close()
    await asyncio.sleep(0.02)


async def used(client: StoreClient) -> tuple[float, int]:
    """Return the processor seconds and the bytes of all servers of a store."""
    texts = [reply.decode() for reply in await client.everywhere("INFO", "everything")]
    found = [dict(x.split(":", 1) for x in text.splitlines() if ":" in x) for text in texts]
    cpu_s = sum(float(one["used_cpu_user"]) + float(one["used_cpu_sys"]) for one in found)
    return cpu_s, sum(int(one["used_memory"]) for one in found)


async def costed(
    client: StoreClient, calls: Sequence[Callable[[], Awaitable[Any]]]
) -> dict[str, float]:
    """Make calls, a number of them at once; return what each has cost."""
    before_s, began_s = (await used(client))[0], time.perf_counter()
    for first in range(0, len(calls), AT_ONCE):
        await asyncio.gather(*(call() for call in calls[first : first + AT_ONCE]))
    elapsed_s = time.perf_counter() - began_s
    cpu_s = (await used(client))[0] - before_s
    return {"calls_per_s": len(calls) / elapsed_s, "store_cpu_us": 1e6 * cpu_s / len(calls)}


async def measured(url: str) -> dict[str, Any]:
    """Create sessions, then take a turn with each: begin, commits of a group, the end."""
    random = np.random.default_rng(7)
    width = token_width(len(VOCABULARY))
    keys = [SessionKey("", f"s{i}") for i in range(SESSIONS)]
    incarnations: dict[SessionKey, str] = {}
    tokens: dict[SessionKey, str] = {}

    def content() -> Export:
        arrays = [random.uniform(-0.5, 0.5, n).astype(np.float32) for n in SPEC.state_units]
        ids = random.integers(0, len(VOCABULARY), TOKENS).tolist()
        state = pack_state(State(TOKENS - 1, tuple(arrays)), DIGEST)
        return Export("m@1", DIGEST, 1, width, pack_tokens(ids, width), state)

    async with opened(url) as (store, client):

        async def create(key: SessionKey) -> None:
            made = await store.create(key, content(), 86_400, TOKENS - 1)
            incarnations[key] = made.incarnation

        async def begin(key: SessionKey) -> None:
            tokens[key] = random_id()
            await store.begin(
                key,
                fencing_token=tokens[key],
                kind="turn",
                incarnation=incarnations[key],
                prompt=b"\1" * width,
                record="{}",
            )

        def entry(key: SessionKey, at: int, status: TurnStatus | None) -> CommitEntry:
            added = b"\2" * TURN * width
            sum_ = LogChecksum(width).add(added)
            snapshot, state = ("", b"") if status is None else (f"{random_id()}:{at}", states[key])
            return CommitEntry(key, tokens[key], at, added, status, snapshot, state, checksum=sum_)

        async def commit(group: list[SessionKey], at: int, status: TurnStatus | None) -> None:
            outcomes = await store.commit(random_id(), [entry(key, at, status) for key in group])
            assert all(not isinstance(one, Exception) and one[0] == "COMMITTED" for one in outcomes)

        states = {key: content().state for key in keys[:AT_ONCE]}
        states |= dict.fromkeys(keys[AT_ONCE:], states[keys[0]])
        empty = (await used(client))[1]
        result: dict[str, Any] = {
            "create": await costed(client, [partial(create, key) for key in keys])
        }
        result["bytes_at_rest"] = ((await used(client))[1] - empty) / SESSIONS
        result["begin"] = await costed(client, [partial(begin, key) for key in keys])
        groups = [keys[i : i + AT_ONCE] for i in range(0, SESSIONS, AT_ONCE)]
        for name, at, status in (
            ("commit", TOKENS + 1, None),
            ("end", TOKENS + 1 + TURN, TurnStatus.LENGTH),
        ):
            calls = [partial(commit, group, at, status) for group in groups]
            one = await costed(client, calls)
            result[name] = {
                "calls_per_s": one["calls_per_s"] * AT_ONCE,
                "store_cpu_us": one["store_cpu_us"] / AT_ONCE,
            }
        result["read"] = await costed(client, [partial(store.read, key, 0, 0) for key in keys])
        result["bytes_after_a_turn"] = ((await used(client))[1] - empty) / SESSIONS
    return result


async def looked(url: str) -> dict[str, dict[str, float]]:
    """Measure the looks of the processes of a fleet, by their number, and the view of all."""
    store, client = FleetStore(url, FleetConfig().lifetime_s), open_client(url, SessionConfig())
    wish = Wish()
    for i in range(MODELS):
        wish = wish.with_load(ModelRef(f"m{i}", 1))
    written = await store.change(None, wish)
    ready = {f"m{i}@1": DIGEST for i in range(MODELS)}
    result = {}
    for n in PROCESSES:
        reports = [ProcessReport(f"{i}-{i:06x}", ProcessPhase.SERVING, 1, ready) for i in range(n)]
        looks = [partial(store.look, partial(replace, one), written) for one in reports]
        await costed(client, looks)
        before = await sent_bytes(client)
        result[f"look, {n} processes"] = await costed(client, looks)
        sent = await sent_bytes(client) - before
        result[f"look, {n} processes"]["reply_bytes"] = sent / n
        view = [partial(store.view, partial(replace, reports[0]), written)]
        result[f"view, {n} processes"] = await costed(client, view)
    await store.forget()
    await store.close()
    await client.close()
    return result


async def everything(url: str) -> dict[str, Any]:
    """Measure the sessions and the fleet."""
    return {**await measured(url), **await looked(url)}


async def sent_bytes(client: StoreClient) -> int:
    """Return the bytes that all servers of a store have sent."""
    texts = [reply.decode() for reply in await client.everywhere("INFO", "stats")]
    lines = [line for text in texts for line in text.splitlines()]
    name = "total_net_output_bytes:"
    return sum(int(line.removeprefix(name)) for line in lines if line.startswith(name))


def main() -> None:
    """`python -m bench.store_cost [URL]`: of a private Valkey, or of the store at a URL."""
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            result = asyncio.run(everything(sys.argv[1]))
        else:
            valkey = EmbeddedValkey(Path(folder) / "valkey", ValkeyConfig())
            valkey.start()
            try:
                result = asyncio.run(everything(valkey.url))
            finally:
                valkey.stop()
    print(caption(about), file=sys.stderr)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
