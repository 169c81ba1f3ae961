"""`carousel serve` with 1, 2 and 4 processes: one port, and none of the processes is missed."""

import concurrent.futures
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from service.restart_limit import MOST_RESTARTS, RESTART_AFTER_S, WINDOW_S, RestartLimit
from service.settings import Settings
from tests.bundles import put_model
from tests.fleet.house import HEADER, House, a_house, is_alive, until
from tests.fleet.resumed import ResumedStream, new_session

GREETING = "Carousel is ready"
FOUR = pytest.param(4, marks=pytest.mark.soak)


@pytest.fixture(scope="module", params=[1, 2, FOUR])
def house(request, tmp_path_factory) -> Iterator[House]:
    with a_house(tmp_path_factory.mktemp("house"), request.param) as house:
        yield house


@pytest.fixture
def home(house) -> Path:
    return house.server.log.parent


def test_all_answer_on_one_port_and_say_so(house):
    names = house.names()
    assert names == set(house.serving())
    assert len(names) == house.n
    info = house.get("/info")
    assert info.headers.get(HEADER, info.json()["process"]) == info.json()["process"]
    assert (HEADER in info.headers) == (house.n > 1)


def test_it_greets_once_when_all_are_ready(house):
    until(lambda: GREETING in house.server.log.read_text())
    assert house.server.log.read_text().count(GREETING) == 1


def test_the_metrics_of_each_can_be_scraped(house):
    names = sorted(house.serving())
    for index, name in enumerate(names):
        assert f'carousel_process_info{{process="{name}"}} 1' in house.metrics(index)


def test_the_ids_of_the_processes_are_listed(house):
    running = {child.pid for child in house.children()} | {house.server.process.pid}
    assert set(house.serving().values()) <= running
    assert len(set(house.serving().values())) == house.n


# -- an act on one is an act on all


def generates(http: httpx2.Client, model: str) -> bool:
    body = {"model": model, "prompt": "a", "max_tokens": 1}
    reply = http.post("/v1/completions", json=body)
    assert reply.status_code in {200, 404, 409}, reply.text
    return reply.status_code == 200


def test_an_alias_is_of_all(house):
    with house.client() as http:
        assert http.put("/admin/aliases/prod", json={"model": "demo"}).status_code == 200
        assert house.everywhere(lambda other: generates(other, "prod"))
        assert http.delete("/admin/aliases/prod").status_code == 204
        assert house.everywhere(lambda other: not generates(other, "prod"))


def test_a_load_and_an_unload_are_of_all(house, home):
    new = put_model(home / "model_store", f"new-{house.n}", tokens="abc")
    with house.client() as http:
        assert http.post(f"/admin/models/{new}/load").status_code == 200
        assert house.everywhere(lambda other: generates(other, new.name))
        assert http.post(f"/admin/models/{new}/unload").status_code == 200
        assert house.everywhere(lambda other: not generates(other, new.name))
        assert http.delete(f"/admin/models/{new}").status_code == 204
        listed = lambda other: {one["name"] for one in other.get("/admin/models").json()["models"]}  # noqa: E731
        assert house.everywhere(lambda other: new.name not in listed(other))


def test_any_process_knows_a_version_that_another_one_has_stored(house, home):
    """Also before it has looked into the folder: the first act on it names the version."""
    for i in range(2 * house.n):
        new = put_model(home / "model_store", f"late-{i}", tokens="abc")
        with house.client() as http:
            reply = http.put("/admin/aliases/prod", json={"model": new.name})
            assert reply.status_code == 200, reply.text
            assert http.post(f"/admin/models/{new}/unload").status_code == 200
            assert http.delete("/admin/aliases/prod").status_code == 204


def test_an_alias_of_a_deleted_folder_is_no_500(house, home):
    new = put_model(home / "model_store", "gone", tokens="abc")
    with house.client() as http:
        assert http.put("/admin/aliases/prod", json={"model": "gone"}).status_code == 200
        for path in sorted((home / "model_store" / "gone").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        assert http.get("/admin/models").status_code == 200  # it looks into the folder
        paths = ("/v1/models", "/v1/models/prod", "/info", "/v2/models/prod", "/health")
        found = {path: http.get(path).status_code for path in paths}
        assert max(found.values()) < 500, found
        assert not generates(http, "prod")
        assert http.post("/generate", json={"inputs": "a", "model": "prod"}).status_code < 500
        assert http.post("/admin/models/prod/load").status_code == 404
        assert http.post("/admin/models/prod/unload").status_code == 404
        assert http.delete("/admin/aliases/prod").status_code == 204
        assert http.delete(f"/admin/models/{new}").status_code == 404


# -- ends


@pytest.mark.slow
def test_a_killed_process_is_restarted_and_no_character_is_lost_or_doubled(house):
    """Each process is killed once, under 8 streams of sessions."""
    if house.n == 1:
        pytest.skip("it is its own parent: see test_streams.py")
    truth = ResumedStream(house.server, new_session(house.server), 12_000)
    truth.run()
    assert truth.n_breaks == 0
    streams = [ResumedStream(house.server, new_session(house.server), 12_000) for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        running = [pool.submit(stream.run) for stream in streams]
        until(lambda: all(house.position(stream.session) > 300 for stream in streams))
        for name, pid in house.serving().items():
            os.kill(pid, signal.SIGKILL)
            until(lambda name=name: name not in (now := house.serving()) and len(now) == house.n)
        for one in running:
            one.result(240)
    assert [stream.tokens == truth.tokens for stream in streams] == [True] * 8
    assert house.server.process.poll() is None


def test_a_stop_ends_all_and_the_folder_has_what_was_loaded(tmp_path):
    with a_house(tmp_path) as house:
        with house.client() as http:
            assert http.post("/admin/models/awkward@1/unload").status_code == 200
            assert http.put("/admin/aliases/prod", json={"model": "demo"}).status_code == 200
        children = house.children()
        house.server.process.terminate()
        assert house.server.process.wait(60) == 0
        assert not [one for one in children if one.is_running()]
    record = (tmp_path / "model_store" / "registry.json").read_text()
    assert '"prod": "demo@1"' in record
    assert "awkward@1" not in record


SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("n", [1, 2, FOUR])
def test_no_process_is_left_when_the_parent_ends(tmp_path, n, number):
    """Under streams, with a training worker: whatever the signal."""
    with a_house(tmp_path, n, CAROUSEL_DRAIN_S="1", CAROUSEL_WORKERS="1") as house:
        until(lambda: len(house.children()) >= (2 if n == 1 else n + 2))
        streams = [ResumedStream(house.server, new_session(house.server), 10**6) for _ in range(4)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            running = [pool.submit(stream._read) for stream in streams]
            until(lambda: all(house.position(stream.session) > 300 for stream in streams))
            children = house.children()
            house.server.process.send_signal(number)
            house.server.process.wait(60)
            for one in running:
                one.result(60)
        left = lambda: [one for one in children if is_alive(one)]  # noqa: E731
        until(lambda: not left(), 20)


def test_a_stop_while_processes_start_leaves_none(tmp_path):
    with a_house(tmp_path) as house:
        house.server.process.send_signal(signal.SIGHUP)
        until(lambda: len(house.children()) > 3)  # the next process is being started
        children = house.children()
        house.server.process.terminate()
        assert house.server.process.wait(60) == 0
        assert not [one for one in children if is_alive(one)]


def test_a_drain_is_of_all(tmp_path):
    with a_house(tmp_path) as house:
        assert httpx2.post(f"{house.server.url}/admin/drain", timeout=30).status_code == 202
        until(lambda: {house.get("/health/ready").status_code for _ in range(24)} == {503})
        old = {child.pid for child in house.children()}
        os.kill(min(set(old) & set(house.pids("draining"))), signal.SIGKILL)
        until(lambda: not set(house.pids("draining")) <= old)  # also of the one that is started
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
