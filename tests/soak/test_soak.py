"""Half an hour on all routes: memory, handles, threads and the store's keys end where they began.

SOAK_S in the environment of the tests gives another duration.
"""

import contextlib
import os
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from service.api.access import ROUTE_SCOPES, RouteAccess
from tests.api.test_admin import weights_h5
from tests.keys.conftest import ADMIN_KEY, new_folder
from tests.keys.people import Admin
from tests.process import serving
from tests.sessions.valkey import OwnValkey
from tests.soak.rounds import ROUNDS, Rounds

SOAK_S = float(os.environ.get("SOAK_S", "1800"))
CLIENTS = 4
NOT_ASKED = {
    "POST /admin/keys": "a revoked key stays in the list",
    "DELETE /admin/keys/{key_id}": "likewise",
    "POST /admin/drain": "it ends the server",
    "POST /admin/models": "the upload is the same import",
    "POST /train-jobs/{job_id}/publish": "no worker trains here",
    "GET /ui": "the page for people, which tests/ui asks for",
    "GET /ui/": "likewise",
    "GET /ui/{name}": "likewise",
    "GET /ui/{folder}/{name}": "likewise",
}


MARGINS = {"handles": 2, "threads": 2, "keys": 60}  # keys that wait for their expiry vary


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server holds while no request runs."""

    rss_mib: float
    handles: int
    threads: int
    keys: int


def measure(process: psutil.Process, store: OwnValkey) -> Sample:
    time.sleep(1.5)  # abandoned streams end, and the heap is trimmed
    # Logs that forks share expire after the sessions' 60 s; records for retries in a day.
    keys = sum(1 for key in store.client.scan_iter(count=1000) if b":retry:" not in key)
    rss_mib = process.memory_info().rss / 2**20
    return Sample(rss_mib, process.num_fds(), process.num_threads(), keys)


def test_the_rounds_ask_every_route(tmp_path):
    soak_rounds = one_round_each(tmp_path)
    assert soak_rounds.wrong == []
    assert missing(soak_rounds.asked) == set()
    assert set(NOT_ASKED) - set(ROUTE_SCOPES) == set()


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_all_routes_for_half_an_hour_leave_nothing_behind(tmp_path):
    store = OwnValkey(new_folder(tmp_path))
    with contextlib.closing(store):
        store.start()
        soak(store, tmp_path)


def one_round_each(tmp_path: Path) -> Rounds:
    """Run every round once, on a server with no store of its own."""
    settings = {"CAROUSEL_ADMIN_KEY": ADMIN_KEY}
    with serving(new_folder(tmp_path), **settings) as server, Admin(server.url) as admin:
        secret = admin.add("soak", "generate", "train", "metrics")["secret"]
        spare = admin.add("spare", "generate")["id"]
        rounds = Rounds(server.url, secret, ADMIN_KEY, spare, checkpoint_of(tmp_path), 0)
        with contextlib.closing(rounds):
            for one in ROUNDS:
                one(rounds)
    return rounds


def checkpoint_of(tmp_path: Path) -> bytes:
    weights_h5(tmp_path / "small.weights.h5")
    return (tmp_path / "small.weights.h5").read_bytes()


def soak(store: OwnValkey, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path)
    settings = {"CAROUSEL_REDIS_URL": store.url, "CAROUSEL_ADMIN_KEY": ADMIN_KEY}
    with (
        serving(tmp_path, **settings) as server,
        Admin(server.url) as admin,
        (tmp_path / "samples.txt").open("w") as log,
    ):
        key = admin.add("soak", "generate", "train", "metrics")
        spare = admin.add("spare", "generate")["id"]
        all_rounds = [
            Rounds(server.url, key["secret"], ADMIN_KEY, spare, checkpoint, n)
            for n in range(CLIENTS)
        ]
        process, samples = psutil.Process(server.process.pid), list[Sample]()
        pause = threading.Barrier(CLIENTS + 1)
        until = time.monotonic() + SOAK_S
        with ThreadPoolExecutor(CLIENTS) as pool:
            runs = [pool.submit(run, rounds, until, pause) for rounds in all_rounds]
            while wait(pause):
                samples.append(measure(process, store))
                log.write(f"{samples[-1]}\n")
                log.flush()
                wait(pause)
            for each in runs:
                each.result()
        wrong = [line for rounds in all_rounds for line in rounds.wrong]
        asked = {one for rounds in all_rounds for one in rounds.asked}
        for rounds in all_rounds:
            rounds.close()
    assert wrong == []
    assert missing(asked) == set()
    steady = samples[len(samples) // 3 :]  # after the caches are full
    half = len(steady) // 2
    for name, margin in MARGINS.items():
        values = [getattr(sample, name) for sample in steady]
        assert max(values[half:]) <= max(values[:half]) + margin, (name, values)
    sizes = [sample.rss_mib for sample in steady]
    grown = statistics.median(sizes[half:]) - statistics.median(sizes[:half])
    assert grown < 0.02 * sizes[0], sizes


def run(rounds: Rounds, until: float, pause: threading.Barrier) -> None:
    try:
        rounds.run(until, pause, every_s=max(SOAK_S / 40, 5.0))
    except threading.BrokenBarrierError:
        return  # another client has reached the end
    except Exception:
        pause.abort()
        raise


def wait(pause: threading.Barrier) -> bool:
    """Wait for all clients at a pause; False when one has ended."""
    try:
        pause.wait()
    except threading.BrokenBarrierError:
        return False
    return True


def missing(asked: set[tuple[str, str]]) -> set[str]:
    """Return the routes that no client has asked, without those that have a reason."""
    access = RouteAccess({route: route for route in ROUTE_SCOPES})  # type: ignore[dict-item]
    found = {access.needed(method, path) for method, path in asked}
    return set(ROUTE_SCOPES) - found - set(NOT_ASKED)
