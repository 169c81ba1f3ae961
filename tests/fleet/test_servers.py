"""Real servers on one Redis: an act on one of them is an act on all."""

import concurrent.futures
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.api.conftest import new_home
from tests.fleet.servers import Member, Servers
from tests.sessions.valkey import own_store


@pytest.fixture(scope="module")
def servers(tmp_path_factory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "valkey").mkdir()
    (folder / "home").mkdir()
    home = new_home(folder / "home")
    with own_store(folder / "valkey") as store, Servers(home, store) as servers:
        servers.start()
        servers.start()
        yield servers


@pytest.fixture
def pair(servers) -> tuple[Member, Member]:
    """Two servers that have the two models of a new home."""
    one, two = servers.members[:2]
    for ref in ("demo@1", "awkward@1"):
        if ref not in one.loaded() or ref not in two.loaded():
            assert one.http.post(f"/admin/models/{ref}/load").status_code == 200
    return one, two


def until(is_so: Callable[[], bool], limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end, "the condition does not hold"
        time.sleep(0.05)


def test_an_alias_is_one_for_all(pair):
    one, two = pair
    assert two.generates("prod") == 404
    reply = one.http.put("/admin/aliases/prod", json={"model": "awkward"})
    assert reply.status_code == 200
    assert [each["problem"] for each in reply.json()["fleet"]["processes"]] == [None, None]
    assert two.generates("prod") == one.generates("prod") != 404
    assert two.http.delete("/admin/aliases/prod").status_code == 204
    assert one.generates("prod") == 404


def test_an_unload_and_a_load_are_of_all(pair):
    one, two = pair
    assert one.http.post("/admin/models/awkward@1/unload").status_code == 200
    assert two.loaded() == {"demo@1"}
    assert two.http.post("/admin/models/awkward@1/load").status_code == 200
    assert one.loaded() == {"demo@1", "awkward@1"}


def test_one_list_has_all_processes(pair):
    one, two = pair
    listed = one.fleet()
    assert listed["aliases"] == {"default": "demo@1"}
    assert [each["phase"] for each in listed["processes"]] == ["serving", "serving"]
    assert {each["process"] for each in listed["processes"]} == {
        one.fleet()["process"],
        two.fleet()["process"],
    }


def test_a_process_that_does_not_answer_is_named(pair):
    one, two = pair
    name = two.fleet()["process"]
    two.process.send_signal(signal.SIGSTOP)
    try:
        reply = one.http.put(
            "/admin/aliases/slow", json={"model": "demo"}, params={"wait_s": "0.5"}
        )
    finally:
        two.process.send_signal(signal.SIGCONT)
    assert reply.status_code == 202
    problems = {each["process"]: each["problem"] for each in reply.json()["fleet"]["processes"]}
    assert problems[one.fleet()["process"]] is None
    assert "not reached" in problems[name]
    until(lambda: two.generates("slow") == 200)
    assert one.http.delete("/admin/aliases/slow", params={"wait": "none"}).status_code == 202


def test_aliases_set_at_once_on_two_servers_are_one_in_the_end(pair):
    one, two = pair
    targets = [(one, "demo"), (two, "awkward")] * 4
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        replies = pool.map(
            lambda each: each[0].http.put("/admin/aliases/both", json={"model": each[1]}), targets
        )
        assert {reply.status_code for reply in replies} == {200}
    found = {each.http.get("/admin/models").json()["aliases"]["both"] for each in pair}
    assert found == {one.fleet()["aliases"]["both"]}


def test_a_server_that_is_killed_before_its_load_has_it_when_it_is_back(servers, pair):
    one, _ = pair
    third = servers.start()
    assert one.http.post("/admin/models/awkward@1/unload").status_code == 200
    third.process.send_signal(signal.SIGSTOP)
    assert one.http.post("/admin/models/awkward@1/load?wait=none").status_code == 202
    third.kill()
    until(lambda: len(one.fleet()["processes"]) == 2)  # its report has expired
    assert one.http.post("/admin/models/awkward@1/load").status_code == 200
    fourth = servers.start()
    assert fourth.loaded() == {"demo@1", "awkward@1"}
    fourth.process.terminate()
    fourth.process.wait()
    until(lambda: len(one.fleet()["processes"]) == 2, 4.0)  # it has said so


def test_the_wish_survives_a_kill_of_the_store(servers, pair):
    one, two = pair
    assert one.http.put("/admin/aliases/kept", json={"model": "demo"}).status_code == 200
    servers.store.restart()
    until(lambda: one.http.get("/health/ready").status_code == 200)
    assert two.fleet()["aliases"]["kept"] == "demo@1"
    assert one.generates("kept") == two.generates("kept") == 200
    assert one.http.delete("/admin/aliases/kept").status_code == 204


def test_the_file_of_the_folder_is_left_as_it_was(servers, pair):  # noqa: ARG001 (they change)
    record = Path(servers.home / "model_store" / "registry.json").read_text()
    assert record == '{"aliases": {"default": "demo@1"}, "loaded": ["demo@1", "awkward@1"]}'


@pytest.mark.soak
def test_four_servers_agree_after_many_acts(servers, pair):  # noqa: ARG001 (two of the four)
    every = [*servers.members[:2], servers.start(), servers.start()]
    for i in range(20):
        act, other = every[i % 4], every[(i + 1) % 4]
        assert act.http.post("/admin/models/awkward@1/unload").status_code == 200
        assert all(each.loaded() == {"demo@1"} for each in every)
        assert other.http.post("/admin/models/awkward@1/load").status_code == 200
        assert act.http.put("/admin/aliases/prod", json={"model": "awkward"}).status_code == 200
        assert all(each.generates("prod") != 404 for each in every)
        assert other.http.delete("/admin/aliases/prod").status_code == 204
