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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from bench.load import Connection, Request, closed_loop, streaming, whole
from bench.machine import caption, machine
from bench.progress import Progress
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

CLIENTS, TURN, ROUNDS = 64, 64, 9
WARM_UP_S, ROUND_S = 1.0, 3.0
EXPECTED_S = 240.0

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
        config = SessionConfig(call_timeout_s=60.0, answer_timeout_s=30.0)  # of a busy machine
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
    with contextlib.ExitStack() as stack:

        def stream(port: int, **body: object) -> Connection:
            request = Request("/generate_stream", body | {"parameters": parameters}, FIRST, FIRST)
            return stack.enter_context(Connection(port, request))

        parameters = {"max_new_tokens": FIRST, "do_sample": True}
        one, two = (stream(port, inputs="", session_id=session) for port in ports)
        plain = stream(ports[0], inputs="R", model=model)
        for each in (one, two):
            each.first_event_s()
        cold = [each.first_event_s() for _ in range(REPEATS // 2) for each in (one, two)]
        return {
            "without_ms": median_ms(plain.first_event_s),
            "hot_ms": median_ms(one.first_event_s),
            "cold_ms": 1e3 * statistics.median(cold),
        }


def turns(port: int, model: str, maker: Maker, kind: str, progress: Progress) -> dict[str, Any]:
    """Measure turns on concurrent sessions and the same requests without sessions, by turns.

    Each round has new sessions, since one whose turn was cut off stays busy for a moment.
    """
    make = streaming if kind == "streamed" else whole
    plain = [make(model, seed, TURN) for seed in range(CLIENTS)]
    loads: dict[str, list[dict[str, Any]]] = {"with_sessions": [], "without": []}
    for _ in range(ROUNDS):
        continued = []
        for request, session in zip(plain, maker.make([100] * CLIENTS), strict=True):
            body = {"inputs": "", "session_id": session, "parameters": request.body["parameters"]}
            continued.append(replace(request, body=body))
        for name, requests in (("with_sessions", continued), ("without", plain)):
            load = closed_loop(port, requests, warm_up_s=WARM_UP_S, measure_s=ROUND_S)
            loads[name].append(asdict(load))
            progress.done(f"turns, {kind}, {name}: {load.characters_per_s:,.0f} characters/s")
    result: dict[str, Any] = {
        name: [each["characters_per_s"] for each in rounds] for name, rounds in loads.items()
    }
    medians = {name: statistics.median(result[name]) for name in loads}
    costs = {
        name: statistics.median(each["server_cpu_us"] for each in rounds)
        for name, rounds in loads.items()
    }
    return result | {
        "server_cpu_us": costs,
        "ratio": medians["with_sessions"] / medians["without"],
        "ratio_of_cpu": costs["with_sessions"] / costs["without"],
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
    about, progress = machine(), Progress("sessions", 3 + 4 * ROUNDS, EXPECTED_S)
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
                progress.done(f"{rest['bytes']:,.0f} bytes a session")
                kinds = {
                    kind: turns(one, str(ref), maker, kind, progress)
                    for kind in ("streamed", "whole")
                }
                lengths = by_length(one, maker)
                progress.done("forks and turns by length")
                with server(store, **settings) as two:
                    (session,) = maker.make([100])
                    events = first_events((one, two), str(ref), session)
                    progress.done("first events")
    return {
        "machine": about,
        "turns": kinds,
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
    lines = [caption(result["machine"]), "", "| sessions | result | baseline |", "|---|--:|---|"]
    for name, kind in (("streamed", "streamed"), ("whole", "not streamed")):
        turn = result["turns"][name]
        lines.append(
            f"| turns of {TURN} characters on {CLIENTS} sessions, {kind} "
            f"| {turn['ratio']:.2f}× the throughput, {turn['ratio_of_cpu']:.2f}× the server's "
            "processor time a character | the same without sessions |"
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
    if sys.stdout.isatty():  # else `python -m bench` prints it
        print(table(result), file=sys.stderr)


if __name__ == "__main__":
    os.environ.pop("CAROUSEL_REDIS_URL", None)
    main()
