"""`carousel serve --processes 2`: one port, several processes, none of which is missed."""

import concurrent.futures
import contextlib
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx2
import psutil
import pytest

from service.restart_limit import MOST_RESTARTS, RESTART_AFTER_S, WINDOW_S, RestartLimit
from service.settings import Settings
from tests.api.conftest import new_home
from tests.fleet.resumed import ResumedStream, new_session
from tests.process import Server, free_port, serving

HEADER = "X-Carousel-Process"
GREETING = "Carousel is ready"


def until(is_so: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end, "the condition does not hold"
        time.sleep(0.05)


@dataclass
class House:
    """A server of two processes."""

    server: Server
    metrics_port: int

    def get(self, path: str) -> httpx2.Response:
        """One request on a connection of its own."""
        return httpx2.get(f"{self.server.url}{path}", timeout=30)

    def names(self) -> set[str]:
        """The processes that answer now."""
        return {self.get("/health/live").headers[HEADER] for _ in range(24)}

    def serving(self) -> dict[str, int]:
        """The processes that serve, by name, and their ids."""
        with contextlib.suppress(httpx2.HTTPError, KeyError):  # a process has just been killed
            listed = self.get("/admin/fleet").json()["processes"]
            return {one["process"]: one["pid"] for one in listed if one["phase"] == "serving"}
        return {}

    def position(self, session: str) -> int:
        return int(self.get(f"/sessions/{session}").json()["position"])

    def children(self) -> list[psutil.Process]:
        found = psutil.Process(self.server.process.pid).children(recursive=True)
        return [one for one in found if one.status() != psutil.STATUS_ZOMBIE]

    def metrics(self, index: int) -> str:
        url = f"http://127.0.0.1:{self.metrics_port + index}/metrics"
        with urllib.request.urlopen(url, timeout=30) as reply:
            return reply.read().decode()


@contextlib.contextmanager
def a_house(folder, **more: str) -> Iterator[House]:
    port = free_port()
    settings = {
        "CAROUSEL_PROCESSES": "2",
        "CAROUSEL_METRICS_PORT": str(port),
        "CAROUSEL_DRAIN_S": "5",
        **more,
    }
    with serving(new_home(folder), **settings) as server:
        house = House(server, port)
        until(lambda: len(house.serving()) == 2)
        yield house


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Iterator[House]:
    with a_house(tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest.fixture(scope="module")
def truth(house) -> list:
    """What every turn of these tests says, as one connection has it."""
    stream = ResumedStream(house.server, new_session(house.server), 12_000)
    stream.run()
    assert stream.n_breaks == 0
    return stream.tokens


def test_both_answer_on_one_port_and_say_so(house):
    names = house.names()
    assert names == set(house.serving())
    assert len(names) == 2
    info = house.get("/info")
    assert info.json()["process"] == info.headers[HEADER]


def test_it_greets_once_when_all_are_ready(house):
    until(lambda: GREETING in house.server.log.read_text())
    assert house.server.log.read_text().count(GREETING) == 1


def test_the_metrics_of_each_can_be_scraped(house):
    names = sorted(house.serving())
    for index, name in enumerate(names):
        assert f'carousel_process_info{{process="{name}"}} 1' in house.metrics(index)


def test_an_act_on_one_is_an_act_on_both(house):
    with httpx2.Client(base_url=house.server.url, timeout=60) as http:
        assert http.put("/admin/aliases/prod", json={"model": "demo"}).status_code == 200
        body = {"model": "prod", "prompt": "a", "max_tokens": 1}
        for _ in range(12):
            url = f"{house.server.url}/v1/completions"
            assert httpx2.post(url, json=body, timeout=30).status_code == 200
        assert http.delete("/admin/aliases/prod").status_code == 204


@pytest.mark.slow
def test_a_killed_process_is_restarted_and_no_character_is_lost_or_doubled(house, truth):
    """Each process is killed once, under 8 streams of sessions."""
    streams = [ResumedStream(house.server, new_session(house.server), 12_000) for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        running = [pool.submit(stream.run) for stream in streams]
        until(lambda: all(house.position(stream.session) > 300 for stream in streams))
        for name, pid in house.serving().items():
            os.kill(pid, signal.SIGKILL)
            until(lambda name=name: name not in (now := house.serving()) and len(now) == 2)
        for one in running:
            one.result(180)
    assert [stream.tokens == truth for stream in streams] == [True] * 8
    assert house.server.process.poll() is None


@pytest.mark.slow
def test_a_rolling_restart_loses_and_doubles_no_character(house, truth):
    """Nor is a request refused that comes while processes are replaced."""
    before = set(house.serving())
    streams = [ResumedStream(house.server, new_session(house.server), 12_000) for _ in range(8)]
    refused: list[int] = []
    is_over = False

    def ask() -> None:
        while not is_over:
            url = f"{house.server.url}/generate"
            body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
            refused.append(httpx2.post(url, json=body, timeout=60).status_code)

    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        running = [pool.submit(stream.run) for stream in streams]
        asking = pool.submit(ask)
        until(lambda: all(house.position(stream.session) > 300 for stream in streams))
        house.server.process.send_signal(signal.SIGHUP)
        try:
            until(lambda: len(now := house.serving()) == 2 and not before & set(now), 180)
            for one in running:
                one.result(180)
        finally:
            is_over = True
        asking.result(60)
    assert [stream.tokens == truth for stream in streams] == [True] * 8
    assert set(refused) == {200}
    assert house.names() == set(house.serving())


def test_a_stop_ends_all_and_the_folder_has_what_was_loaded(tmp_path):
    with a_house(tmp_path) as house:
        with httpx2.Client(base_url=house.server.url, timeout=60) as http:
            assert http.post("/admin/models/awkward@1/unload").status_code == 200
            assert http.put("/admin/aliases/prod", json={"model": "demo"}).status_code == 200
        children = house.children()
        house.server.process.terminate()
        assert house.server.process.wait(60) == 0
        assert not [one for one in children if one.is_running()]
    record = (tmp_path / "model_store" / "registry.json").read_text()
    assert '"prod": "demo@1"' in record
    assert "awkward@1" not in record


def test_a_kill_of_the_parent_leaves_no_orphan(tmp_path):
    with a_house(tmp_path) as house:
        children = house.children()
        assert len(children) >= 3  # two processes, and the store
        house.server.process.kill()
        house.server.process.wait()
        until(lambda: not [one for one in children if one.is_running()], 20)


def test_a_drain_is_of_all(tmp_path):
    with a_house(tmp_path) as house:
        assert httpx2.post(f"{house.server.url}/admin/drain", timeout=30).status_code == 202
        until(lambda: {house.get("/health/ready").status_code for _ in range(24)} == {503})


# -- without a server


def test_a_process_that_ends_again_and_again_is_not_restarted():
    limit = RestartLimit()
    for i in range(MOST_RESTARTS):
        assert limit.next_start_s(float(i)) == i + RESTART_AFTER_S
    assert limit.next_start_s(float(MOST_RESTARTS)) is None
    rare = RestartLimit()
    assert all(rare.next_start_s(i * WINDOW_S / 4) is not None for i in range(50))


def test_each_process_has_its_part_of_the_machine(tmp_path):
    given = Settings(processes=2, memory_budget=1_000, data_dir=tmp_path)
    part = given.for_process("redis://x")
    assert part["CAROUSEL_MEMORY_BUDGET"] == "500"
    assert part["CAROUSEL_THREADS"] == str(max(1, given.threads // 2))
    assert part["CAROUSEL_PROCESSES"] == "1"
    assert part["CAROUSEL_REDIS_URL"] == "redis://x"
    assert part["CAROUSEL_SPIN"] == "off"
    assert Settings(processes=2, threads=3).for_process("x")["CAROUSEL_THREADS"] == "3"
