"""A server's memory: loads and unloads end where they began, and twenty models share room for five.

Threads, handles and memory are those of a server that users would start.
"""

import asyncio
import gc
import json
import random
import threading
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from service.app import create_app, open_store
from service.constraints.compiler import ConstraintCompiler
from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.memory_estimate import estimate_memory
from service.models.bundle import Bundle, Precision
from service.models.cell import LayerSpec
from service.models.compile import compile_program
from service.models.loaded_model import ModelStatus
from service.models.spec import ModelRef, ModelSpec
from service.models.store import RegistryRecord
from service.settings import Settings
from tests.bundles import put_model
from tests.models.networks import random_weights
from tests.process import ROOT, Server, serving

SMALL = ModelSpec(3, None, (LayerSpec("lstm", 8),))
DEMO_SIZED = ModelSpec(95, None, (LayerSpec("lstm", 512),))
LETTERS = "".join(chr(0x4E00 + i) for i in range(5_000))
KINDS = {
    "narrow": ModelSpec(95, None, (LayerSpec("lstm", 256),)),
    "deep": ModelSpec(95, 256, (LayerSpec("lstm", 1024), LayerSpec("lstm", 1024))),
    "gru": ModelSpec(95, 64, (LayerSpec("gru", 512),)),
    "wide": ModelSpec(5_000, 128, (LayerSpec("lstm", 256),)),
}
MIB = 1024 * 1024


def home(folder: Path, models: dict[str, ModelSpec], default: ModelSpec = SMALL) -> Path:
    """Make a folder to serve from, of which only the default model is loaded by the start."""
    (folder / "imports").mkdir()
    ref = put_model(folder / "model_store", "default-model", default, tokens="abc")
    for name, spec in models.items():
        tokens = LETTERS[: spec.vocabulary_size] if spec.vocabulary_size > 3 else "abc"
        put_model(folder / "model_store", name, spec, 0.001, tokens)
    RegistryRecord((ref,), {"default": ref}).write(folder / "model_store")
    return folder


def client_of(server: Server) -> httpx2.Client:
    return httpx2.Client(base_url=server.url, timeout=90)


def cycle(client: httpx2.Client, name: str, text: str, *, is_unloaded: bool = True) -> None:
    """Load a model, generate with it, and unload it, or else leave it to the next load."""
    assert client.post(f"/admin/models/{name}/load").status_code == 200
    body = {"inputs": text, "model": name, "parameters": {"max_new_tokens": 20}}
    assert client.post("/generate", json=body).status_code == 200
    if is_unloaded:
        client.post(f"/admin/models/{name}/unload").raise_for_status()
    until = time.monotonic() + 30
    while (memory := client.get("/admin/models").json())["memory"]["reserved"] > bytes_of(memory):
        assert time.monotonic() < until, "the old model does not leave the memory"
        time.sleep(0.02)


def bytes_of(listing: dict[str, Any]) -> int:
    """Return what the budget counts once nothing drains."""
    return sum(row["bytes"] for row in listing["models"] if row["status"] == "ready")


# -- what a closed model leaves behind


def test_a_closed_engine_is_freed_with_its_last_reference():
    bundle = Bundle.read(ROOT / "model_store" / "demo" / "1")

    async def serve_and_close() -> list[weakref.ref]:
        program = compile_program(bundle.spec, bundle.weights, bundle.manifest.precision)
        engine = Engine(program, bundle.tokenizer, EngineConfig(), name="closed")
        engine.start()
        await engine.drain(1.0)
        await asyncio.to_thread(engine.close)
        return [weakref.ref(engine), weakref.ref(program), weakref.ref(engine.beam_worker)]

    gc.collect()
    gc.disable()
    try:
        left = [each() for each in asyncio.run(serve_and_close())]
    finally:
        gc.enable()
    assert left == [None, None, None]


USES = [
    ("/generate", {"inputs": "abc", "parameters": {"max_new_tokens": 5}}),
    ("/generate_stream", {"inputs": "abc", "parameters": {"max_new_tokens": 5}}),
    ("/generate", {"inputs": "abc", "parameters": {"num_beams": 2, "max_new_tokens": 5}}),
    ("/generate", {"inputs": "not of its letters"}),
    ("/sessions", {"session_id": "one", "text": "ab"}),
    ("/generate", {"inputs": "a", "session_id": "one", "parameters": {"max_new_tokens": 5}}),
    ("/generate_stream", {"inputs": "a", "session_id": "one"}),
    ("/v1/completions", {"prompt": "abc", "n": 2, "max_tokens": 5}),
    ("/score", {"inputs": "abcabc"}),
    ("/tokenize", {"inputs": "abc"}),
]


@pytest.mark.parametrize(("path", "body"), USES, ids=[f"{p} {b}"[:60] for p, b in USES])
def test_no_request_keeps_the_program_of_a_model_that_is_unloaded(tmp_path, path, body):
    home(tmp_path, {"used": SMALL})
    settings = Settings(
        model_store=tmp_path / "model_store", data_dir=tmp_path, import_dir=tmp_path / "imports"
    )

    async def parts_left(url: str) -> list[object]:
        app = create_app(settings, url)
        transport = httpx2.ASGITransport(app=app, client=("127.0.0.1", 1))
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
        ):
            registry = app.state.carousel.registry
            await app.state.carousel.opened.wait()
            await client.post("/admin/models/used/load")
            gc.collect()
            gc.disable()
            engine = registry.get("used").runtime.engine
            parts = [engine.beam_worker._program, engine._table._batch.logits]
            left = [weakref.ref(part) for part in parts]
            del engine, parts
            if body.get("session_id") and path != "/sessions":
                await client.post("/sessions", json={"session_id": "one", "model": "used"})
            reply = await client.post(path, json={"model": "used"} | body)
            assert reply.status_code < 500
            await client.post("/admin/models/used/unload")
            async with asyncio.timeout(10):
                while registry.info(ModelRef("used", 1)).status is not ModelStatus.STORED:  # noqa: ASYNC110 (no event marks it)
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            return [part() for part in left]

    with open_store(settings) as url:
        try:
            assert asyncio.run(parts_left(url)) == [None, None]
        finally:
            gc.enable()


def test_the_threads_of_a_compiler_end_with_it():
    before = threading.active_count()
    compiler = ConstraintCompiler("ab")
    compiler._threads.submit(int).result()
    assert threading.active_count() > before
    del compiler
    until = time.monotonic() + 30
    while threading.active_count() > before:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def cycled(tmp_path) -> Iterator[tuple[Server, httpx2.Client]]:
    """A server with a model that is loaded again and again."""
    with serving(home(tmp_path, {"again": DEMO_SIZED})) as server, client_of(server) as client:
        yield server, client


@pytest.mark.slow
@pytest.mark.parametrize("is_unloaded", [True, False], ids=["unload", "replace"])
def test_threads_and_handles_do_not_grow_over_ten_loads(cycled, is_unloaded):
    server, client = cycled
    process = psutil.Process(server.process.pid)
    for _ in range(4):
        cycle(client, "again", LETTERS[:5], is_unloaded=is_unloaded)
    threads, handles = process.num_threads(), process.num_fds()
    for _ in range(10):
        cycle(client, "again", LETTERS[:5], is_unloaded=is_unloaded)
    # The pool for blocking calls may still grow to its bound, which a thread a load would exceed.
    assert process.num_threads() - threads < 8
    assert process.num_fds() - handles < 8


@pytest.mark.slow
@pytest.mark.parametrize("is_unloaded", [True, False], ids=["unload", "replace"])
def test_ten_loads_end_with_the_memory_of_the_first(cycled, is_unloaded):
    load_again_and_again(*cycled, 10, is_unloaded=is_unloaded)


@pytest.mark.soak
@pytest.mark.parametrize("is_unloaded", [True, False], ids=["unload", "replace"])
def test_sixty_loads_end_with_the_memory_of_the_first(cycled, is_unloaded):
    load_again_and_again(*cycled, 60, is_unloaded=is_unloaded)


def load_again_and_again(
    server: Server, client: httpx2.Client, n: int, *, is_unloaded: bool
) -> None:
    """Load a model `n` times; the last times leave no more memory in use than the first."""
    process, sizes = psutil.Process(server.process.pid), []
    for _ in range(n):
        cycle(client, "again", LETTERS[:5], is_unloaded=is_unloaded)
        time.sleep(0.2)  # the heap is trimmed a moment after the end of a model
        sizes.append(process.memory_info().rss)
    shown = ", ".join(str(size // MIB) for size in sizes)
    assert min(sizes[-3:]) - max(sizes[:3]) < 16 * MIB, shown


@pytest.mark.soak
def test_the_estimate_of_a_model_covers_what_its_load_adds(tmp_path):
    with serving(home(tmp_path, KINDS)) as server, client_of(server) as client:
        process = psutil.Process(server.process.pid)
        for name in KINDS:  # what the first load of a kind leaves: libraries, compiled kernels
            cycle(client, name, LETTERS[:5])
        time.sleep(0.5)
        before, grown = process.memory_info().rss, {}
        for name in KINDS:
            cycle(client, name, LETTERS[:5], is_unloaded=False)
            time.sleep(0.5)  # the heap is trimmed a moment after a load
            after = process.memory_info().rss
            before, grown[name] = after, after - before
        rows = client.get("/admin/models").json()["models"]
        estimates = {row["name"]: row["bytes"] for row in rows if row["name"] in KINDS}
        shown = {name: (grown[name] // MIB, estimates[name] // MIB) for name in KINDS}
        assert sum(grown.values()) <= sum(estimates.values()), shown
        moved = 16 * MIB  # of the heap, from one load's time to the next one's
        assert all(grown[name] <= estimates[name] + moved for name in KINDS), shown
        assert sum(grown.values()) > 0.3 * sum(estimates.values()), shown


def test_a_program_keeps_no_copy_of_its_graph():
    spec = DEMO_SIZED
    weights = random_weights(spec)
    compile_program(SMALL, random_weights(SMALL), Precision.FLOAT32)  # imports
    gc.collect()
    tracemalloc.start()
    try:
        program = compile_program(spec, weights, Precision.FLOAT32)
        gc.collect()
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert program.vocabulary_size == spec.vocabulary_size
    assert most > 4 * spec.parameters > 8 * kept, (kept, most)


@pytest.mark.parametrize("spec", [SMALL, *KINDS.values()], ids=["small", *KINDS])
def test_an_estimate_counts_each_array_that_an_engine_allocates(spec):
    estimate = estimate_memory(spec, EngineConfig())
    assert estimate.weights == 4 * spec.parameters
    logits = 4 * 256 * spec.vocabulary_size
    assert estimate.states > logits + 4 * 256 * sum(spec.state_units)
    assert estimate.total >= 2 * estimate.weights + estimate.states + 100 * spec.vocabulary_size


# -- twenty models, room for five


@pytest.mark.slow
def test_sixteen_clients_at_twenty_models_with_room_for_five(tmp_path):
    evict_under_load(tmp_path, 8.0)


@pytest.mark.soak
@pytest.mark.timeout(560)
def test_sixteen_clients_at_twenty_models_for_minutes(tmp_path):
    evict_under_load(tmp_path, 300.0)


def evict_under_load(folder: Path, duration_s: float) -> None:
    """Stream from random models and go on with sessions; no request fails or loses its model."""
    names = [f"model-{i}" for i in range(20)]
    size_bytes = estimate_memory(SMALL, EngineConfig()).total
    settings = {
        "CAROUSEL_AUTOLOAD": "true",
        "CAROUSEL_MEMORY_BUDGET": str(5 * size_bytes),
        "CAROUSEL_LOAD_WAIT_S": "60",
    }
    with serving(home(folder, dict.fromkeys(names, SMALL)), **settings) as server:
        until = time.monotonic() + duration_s
        with ThreadPoolExecutor(16) as pool:
            clients = [
                pool.submit(be_a_client, server, names, random.Random(i), until) for i in range(16)
            ]
            outcomes = [outcome for each in clients for outcome in each.result()]
        with client_of(server) as client:
            reply = client.get("/admin/models").json()
    log = server.log.read_text()
    failed = [outcome for outcome in outcomes if outcome != "done"]
    assert failed == []
    assert len(outcomes) > 32
    assert log.count("is evicted") > 5
    ready = [row for row in reply["models"] if row["status"] == "ready"]
    assert len(ready) <= 5
    assert reply["memory"]["reserved"] <= 5 * size_bytes
    assert {row["requests"] for row in reply["models"]} == {0}
    assert "default-model" in {row["name"] for row in ready}


def be_a_client(server: Server, names: list[str], source: random.Random, until: float) -> list[str]:
    """Stream, or take a turn of a session of its own, until the time is over."""
    outcomes, session = [], f"session-{source.random()}"
    with client_of(server) as client:
        first = client.post(
            "/sessions", json={"session_id": session, "model": source.choice(names)}
        )
        outcomes.append("done" if first.status_code == 201 else first.text)
        while time.monotonic() < until:
            if source.random() < 0.2:
                body = {"inputs": "a", "session_id": session}
                outcomes.append(turn(client, body, 5))
            else:
                n_tokens = source.choice([1, 30, 300])
                body = {"inputs": "abc", "model": source.choice([*names, "default"])}
                outcomes.append(turn(client, body, n_tokens))
    return outcomes


def turn(client: httpx2.Client, body: dict[str, object], n_tokens: int) -> str:
    """Stream tokens; return `done`, or what came instead."""
    body = body | {"parameters": {"max_new_tokens": n_tokens}}
    with client.stream("POST", "/generate_stream", json=body) as reply:
        if reply.status_code != 200:
            return reply.read().decode()
        lines = [line for line in reply.iter_lines() if line.startswith("data:")]
    events = [json.loads(line[5:]) for line in lines]
    if len(events) == n_tokens and events[-1].get("details"):
        return "done"
    return f"{len(events)} of {n_tokens} events, the last: {events[-1:]}"
