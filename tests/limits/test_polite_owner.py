"""A polite owner's requests beside a greedy owner's endless streams, by turns with alone.

Here the greedy owner's clients run on the cores of the server. So there is a control: the polite
owner beside unrelated programs that keep every core busy. It tells how much of the difference the
sharing of cores makes, with no greedy owner at all.
"""

import asyncio
import contextlib
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.keys.conftest import ADMIN_KEY, new_folder
from tests.keys.people import Admin, bearer
from tests.process import serving

STREAMS, REQUESTS, TURNS, PAUSE_S, RISE_S = 256, 100, 5, 0.03, 1.0
ASKED = {"inputs": "ROMEO:", "parameters": {"max_new_tokens": 64, "seed": 1}}
RATIO = 2.0  # the aim is 1.2; 7 to 100 without fair bursts
BUSY = "while True: sum(range(1000))"


async def latencies_s(http: httpx2.AsyncClient) -> list[float]:
    took_s = []
    for _ in range(REQUESTS):
        await asyncio.sleep(PAUSE_S)
        began_s = time.perf_counter()
        reply = await http.post("/generate", json=ASKED)
        assert reply.status_code == 200
        took_s.append(time.perf_counter() - began_s)
    return took_s


@contextlib.asynccontextmanager
async def greedy_process(port: int, secret: str) -> AsyncIterator[None]:
    """Keep streams open in a process of its own, whose work delays no request measured here."""
    command = [
        "nice",
        "-n",
        "19",
        sys.executable,
        "-m",
        "tests.limits.greedy",
        str(port),
        str(STREAMS),
        secret,
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"open\n"
        yield
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def busy_cores() -> AsyncIterator[None]:
    """Keep every core busy with programs that ask the server for nothing."""
    programs = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", BUSY)
        for _ in range(len(os.sched_getaffinity(0)))
    ]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            await program.wait()


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


@pytest.mark.soak
async def test_a_polite_owner_is_served_beside_a_greedy_one_as_if_alone(tmp_path):
    settings = {"CAROUSEL_ADMIN_KEY": ADMIN_KEY}
    with serving(new_folder(tmp_path), **settings) as server, Admin(server.url) as admin:
        greedy, polite = (admin.add(name, "generate") for name in ("greedy", "polite"))
        beside: list[float] = []
        alone: list[float] = []
        control: list[float] = []
        async with httpx2.AsyncClient(
            base_url=server.url, headers=bearer(polite["secret"]), timeout=60
        ) as http:
            await latencies_s(http)
            for _ in range(TURNS):
                alone += await latencies_s(http)
                async with greedy_process(server.port, greedy["secret"]):
                    await asyncio.sleep(RISE_S)
                    beside += await latencies_s(http)
                async with busy_cores():
                    control += await latencies_s(http)
        ratio = p99(beside) / p99(control)
        figures = ", ".join(
            f"{name}: p50 {statistics.median(took) * 1e3:.1f} ms, p99 {p99(took) * 1e3:.1f} ms"
            for name, took in (("alone", alone), ("beside", beside), ("control", control))
        )
        ratios = f"ratio of p99 to control {ratio:.2f}, to alone {p99(beside) / p99(alone):.2f}"
        sys.stdout.write(f"{figures}; {ratios}\n")
        assert ratio <= RATIO, figures
