"""The cost of sessions: turns, first events, forks, long texts, and memory in the store."""

import asyncio
import contextlib
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from bench import turns
from bench.first_event import first_event_s
from bench.seed_model import SPEC, VOCABULARY, write_seed_model
from bench.server import server
from service.models.bundle import Precision
from service.models.spec import ModelRef
from service.models.step import State
from service.models.store import ModelStore
from service.sessions.codec import Export, pack_state, pack_tokens
from service.sessions.config import SessionConfig, ValkeyConfig
from service.sessions.embedded import EmbeddedValkey
from service.sessions.redis_client import ScriptClient
from service.sessions.session import SessionKey, token_width
from service.sessions.signing import Signer
from service.sessions.store import Store

LENGTHS = (100, 10_000, 1_000_000)
AT_REST, AT_REST_LENGTH, AT_REST_TURN = 10_000, 1_000, 8
REPEATS = 150
FIRST = 9
"""Characters of the turns whose first events are timed."""

Numbers = dict[str, float]


class Maker:
    """Creates sessions of any length in the store, without generating their texts."""

    def __init__(self, url: str, ref: ModelRef, digest: str) -> None:
        self._url, self._ref, self._digest = url, ref, digest
        self._random = np.random.default_rng(7)

    def make(self, lengths: list[int]) -> list[str]:
        """Create sessions of random text, with a random state after all but the last token."""
        return asyncio.run(self._make(lengths))

    async def _make(self, lengths: list[int]) -> list[str]:
        config = SessionConfig()
        client = ScriptClient(self._url, config)
        store = Store(client, client, Signer(b"b" * 32), "bench", config)
        names = [f"bench-{secrets.token_hex(8)}" for _ in lengths]
        for first in range(0, len(names), 64):
            part = zip(names[first : first + 64], lengths[first : first + 64], strict=True)
            await asyncio.gather(*(self._one(store, name, length) for name, length in part))
        await client.close()
        await asyncio.sleep(0.01)
        return names

    async def _one(self, store: Store, name: str, length: int) -> None:
        arrays = [self._random.uniform(-0.5, 0.5, n).astype(np.float32) for n in SPEC.state_units]
        width = token_width(len(VOCABULARY))
        tokens = self._random.integers(0, len(VOCABULARY), length).tolist()
        state = pack_state(State(length - 1, tuple(arrays)), self._digest)
        packed = pack_tokens(tokens, width)
        content = Export(str(self._ref), self._digest, 1, width, packed, state)
        await store.create(SessionKey("", name), content, 86_400, length - 1)


def median_ms(measure_s: Callable[[], float], repeats: int = REPEATS) -> float:
    """Return the median in milliseconds of many measurements in seconds."""
    return 1e3 * statistics.median(measure_s() for _ in range(repeats))


def _timed(request: Callable[[], httpx2.Response]) -> float:
    begin_s = time.perf_counter()
    reply = request()
    elapsed_s = time.perf_counter() - begin_s
    reply.raise_for_status()
    return elapsed_s


def first_events(ports: tuple[int, int], model: str, session: str) -> Numbers:
    """Measure the time to the first event: without a session, hot, and in the other process."""
    base = "http://127.0.0.1:{}"
    continued, plain = {"inputs": "", "session_id": session}, {"inputs": "R", "model": model}
    with (
        httpx2.Client(base_url=base.format(ports[0])) as one,
        httpx2.Client(base_url=base.format(ports[1])) as two,
    ):
        for http in (one, two):
            first_event_s(http, continued, FIRST)
        cold = []
        for _ in range(REPEATS // 2):
            cold += [first_event_s(one, continued, FIRST), first_event_s(two, continued, FIRST)]
        return {
            "without_ms": median_ms(lambda: first_event_s(one, plain, FIRST)),
            "hot_ms": median_ms(lambda: first_event_s(one, continued, FIRST)),
            "cold_ms": 1e3 * statistics.median(cold),
        }


def by_length(port: int, maker: Maker) -> dict[str, Numbers]:
    """Measure forks and turns of sessions of very different lengths."""
    result: dict[str, Numbers] = {"fork_ms": {}, "continue_ms": {}}
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        sessions = maker.make(list(LENGTHS))
        for length, session in zip(LENGTHS, sessions, strict=True):
            path = f"/sessions/{session}/fork"
            result["fork_ms"][str(length)] = median_ms(
                lambda path=path: _timed(lambda: http.post(path, json={}))  # type: ignore[misc]
            )
        one = {"max_new_tokens": 1, "do_sample": True}
        for length, session in zip(LENGTHS, sessions, strict=True):
            body = {"inputs": "", "session_id": session, "parameters": one}
            result["continue_ms"][str(length)] = median_ms(
                lambda body=body: _timed(lambda: http.post("/generate", json=body))  # type: ignore[misc]
            )
    return result


def at_rest(port: int, maker: Maker, used_bytes: Callable[[], int]) -> Numbers:
    """Measure the bytes of a session in the store after a real turn."""
    before = used_bytes()
    sessions = maker.make([AT_REST_LENGTH] * AT_REST)
    asyncio.run(_one_turn_each(port, sessions))
    per_session = (used_bytes() - before) / AT_REST
    characters = AT_REST_LENGTH + AT_REST_TURN
    return {
        "sessions": AT_REST,
        "characters": characters,
        "bytes": per_session,
        "state_bytes": SPEC.state_bytes,
        "overhead_bytes": per_session - SPEC.state_bytes - characters,
    }


async def _one_turn_each(port: int, sessions: list[str]) -> None:
    waiting = iter(sessions)
    parameters = {"max_new_tokens": AT_REST_TURN, "do_sample": True, "temperature": 0.8}
    base = f"http://127.0.0.1:{port}"

    async def work() -> None:
        async with httpx2.AsyncClient(base_url=base, timeout=60) as http:
            for session in waiting:
                body = {"inputs": "", "session_id": session, "parameters": parameters}
                (await http.post("/generate", json=body)).raise_for_status()

    await asyncio.gather(*(work() for _ in range(32)))


@contextlib.contextmanager
def _valkey(folder: Path) -> Iterator[EmbeddedValkey]:
    own = EmbeddedValkey(folder, ValkeyConfig())
    own.start()
    try:
        yield own
    finally:
        own.stop()


def measure() -> dict[str, Any]:
    """All of it on two servers over one store."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "models"
        ref = write_seed_model(store, Precision.INT8)
        digest = ModelStore(store).read(ref).manifest.digest
        with _valkey(Path(folder) / "valkey") as valkey:
            maker = Maker(valkey.url, ref, digest)

            def used_bytes() -> int:
                return asyncio.run(_used_bytes(valkey.url))

            settings = {"CAROUSEL_REDIS_URL": valkey.url}
            with server(store, **settings) as one:
                rest = at_rest(one, maker, used_bytes)
                many = maker.make([100] * turns.CLIENTS * turns.ROUNDS * 2)
                half = len(many) // 2
                streamed = turns.run(one, str(ref), many[:half], "/generate_stream")
                whole = turns.run(one, str(ref), many[half:], "/generate")
                lengths = by_length(one, maker)
                with server(store, **settings) as two:
                    (session,) = maker.make([100])
                    events = first_events((one, two), str(ref), session)
    return {
        "turns": {"streamed": asdict(streamed), "whole": asdict(whole)},
        "first_event": events,
        "by_length": lengths,
        "at_rest": rest,
        "how": "sessions of random text and state, made in the store; figures after real turns",
    }


async def _used_bytes(url: str) -> int:
    client = ScriptClient(url, SessionConfig())
    text = (await client.execute("INFO", "memory")).decode()
    await client.close()
    await asyncio.sleep(0.01)
    return int(text.split("used_memory:")[1].split("\r\n")[0])


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table, each with its baseline."""
    events, lengths, rest = result["first_event"], result["by_length"], result["at_rest"]
    lines = ["| sessions | result | baseline |", "|---|--:|---|"]
    for name, kind in (("streamed", "streamed"), ("whole", "not streamed")):
        ratio = result["turns"][name]["ratio"]
        lines.append(
            f"| turns of {turns.CHARACTERS} characters on {turns.CLIENTS} sessions, {kind} "
            f"| {ratio:.2f}× the throughput | the same without sessions |"
        )
    for name, kind in (("hot", "in the same process"), ("cold", "in another process")):
        lines.append(
            f"| first event of a session's turn, {kind} | {events[f'{name}_ms']:.1f} ms "
            f"| {events['without_ms']:.1f} ms for one character without a session |"
        )
    for name, action in (("fork_ms", "fork"), ("continue_ms", "turn of one character")):
        times = " / ".join(f"{lengths[name][str(n)]:.1f}" for n in LENGTHS)
        ratio = lengths[name][str(LENGTHS[-1])] / lengths[name][str(LENGTHS[0])]
        lines.append(
            f"| {action} after 10² / 10⁴ / 10⁶ characters | {times} ms "
            f"| {ratio:.2f}× from first to last |"
        )
    lines.append(
        f"| bytes per stored session, {rest['sessions']:,} of {rest['characters']:,} characters "
        f"| {rest['bytes']:,.0f} | {rest['state_bytes']:,} of state, 1 per character, "
        f"{rest['overhead_bytes']:.0f} of overhead |"
    )
    return "\n".join(lines)


def main() -> None:
    """`python -m bench.sessions` prints the figures as JSON, and the table on standard error."""
    result = measure()
    print(json.dumps(result))
    print(table(result), file=sys.stderr)


if __name__ == "__main__":
    os.environ.pop("CAROUSEL_REDIS_URL", None)
    main()
