"""The service on a real Ray of two nodes: the bytes of a plain server, and what it survives."""

import concurrent.futures
import logging
import re
import time
from collections.abc import Callable, Iterator

import httpx2
import pytest

from tests.fleet.resumed import ResumedStream, new_session
from tests.process import Server, serving
from tests.ray.ray_fleet import RayFleet, ray_fleet, running_loads, tcp_store

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = [
    pytest.mark.slow,  # nodes and replicas are started, killed and started again
    pytest.mark.timeout(600),
]

N = 12_000
_log = logging.getLogger(__name__)
BODY = {"inputs": "The ", "parameters": {"max_new_tokens": 300, "seed": 7, "temperature": 0.8}}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> Iterator[RayFleet]:
    folder = tmp_path_factory.mktemp("ray")
    with tcp_store(folder) as store, ray_fleet(folder, store.url) as found:
        found.start_node(is_head=True)
        found.start_node()
        found.up()
        found.until_replicas(2)
        yield found


def test_a_stream_has_the_bytes_of_a_plain_server(fleet, tmp_path):
    store = fleet.content["settings"]["model_store"]
    with serving(tmp_path, CAROUSEL_MODEL_STORE=store) as plain:
        for path in ("/generate_stream", "/generate"):
            replies = [
                httpx2.post(f"{one.url}{path}", json=BODY, timeout=60)
                for one in (plain, fleet.server)
            ]
            assert replies[0].status_code == replies[1].status_code == 200
            assert replies[0].content == replies[1].content


def test_replicas_of_both_nodes_answer(fleet):
    state = fleet.status()
    assert state["application"] == "RUNNING"
    assert state["replicas"] == {"RUNNING": 2}
    assert [node["state"] for node in state["nodes"]] == ["alive", "alive"]
    assert list(state["ingresses"].values()) == ["HEALTHY", "HEALTHY"]
    reply = httpx2.get(f"http://127.0.0.1:{fleet.port_2}/health/ready", timeout=10)
    assert reply.status_code == 200
    assert [len(node.replicas()) for node in fleet.nodes] == [1, 1]


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_a_replica_takes_nothing_that_haproxy_has_not_sent(fleet, path):
    ports = {
        connection.laddr.port
        for node in fleet.nodes
        for replica in node.replicas()
        for connection in replica.net_connections("tcp")
        if connection.status == "LISTEN" and 30_000 <= connection.laddr.port < 32_000
    }
    assert len(ports) == 2
    for port in ports:
        for headers in ({}, {"X-Carousel-Ingress": "0" * 64}):
            reply = httpx2.post(f"http://127.0.0.1:{port}{path}", json=BODY, headers=headers)
            assert reply.status_code == 403
            assert "has not come through the fleet's HAProxy" in reply.text
            assert isinstance(reply.json()["error"], dict if "/v1/" in path else str)


def test_an_error_of_the_app_is_the_apps(fleet):
    reply = httpx2.post(f"{fleet.server.url}/v1/completions", json={"model": "none", "prompt": ""})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert reply.headers["X-Carousel-Process"]


def test_a_reply_has_one_request_id_and_it_is_ours(fleet):
    given = {"X-Request-Id": "mine", "X-Forwarded-For": "10.9.9.9"}
    reply = httpx2.get(f"{fleet.server.url}/health", headers=given)
    assert len(reply.headers.get_list("x-request-id")) == 1
    assert re.fullmatch(r"[0-9a-f-]{36}", reply.headers["x-request-id"])


def test_a_client_cannot_have_ray_end_a_stream(fleet):
    headers = {"X-Request-Timeout-Seconds": "0.001"}
    reply = httpx2.post(f"{fleet.server.url}/generate", json=BODY, headers=headers, timeout=60)
    assert reply.status_code == 200


def test_sessions_go_on_with_the_other_replica_when_one_is_killed(fleet):
    before = fleet.until_replicas(2)
    (whole,) = streams_of(fleet, 1)
    whole.run()
    streams = streams_of(fleet, 8)
    (victim,) = fleet.nodes[1].replicas()
    run_through(streams, victim.kill)
    assert len(whole.tokens) == N
    assert [stream.tokens == whole.tokens for stream in streams] == [True] * 8
    assert sum(stream.n_breaks for stream in streams) > 0
    silence_s = max(stream.longest_silence_s for stream in streams)
    _log.info("the longest silence of a session was %.1f s", silence_s)  # 3 s of it are its lease
    assert silence_s < 20, "5 s on a machine that does nothing else"
    assert len(fleet.until_replicas(2) - before) == 1


def test_a_rolling_update_cuts_no_stream(fleet):
    before = fleet.until_replicas(2)
    with running_loads(fleet, 4) as loads:
        fleet.up(log_level="warning")
        fleet.until_replicas(2, frozenset(before))
    assert sum(load.n_done for load in loads) > 4
    assert [load.faults for load in loads] == [[]] * 4


def test_scaling_in_cuts_no_stream(fleet):
    before = fleet.until_replicas(2)
    with running_loads(fleet, 4) as loads:
        fleet.content["replicas"] |= {"min": 1, "max": 1}
        fleet.up()
        left = fleet.until_replicas(1)
        fleet.content["replicas"] |= {"min": 2, "max": 2}
        fleet.up()
        after = fleet.until_replicas(2)
    assert sum(load.n_done for load in loads) > 4
    assert [load.faults for load in loads] == [[]] * 4
    assert left < before  # the one that stays is not started again
    assert left < after


def test_a_killed_node_loses_no_session_and_its_successor_serves(fleet):
    fleet.until_replicas(2)
    (whole, *streams) = streams_of(fleet, 5)
    whole.run()
    run_through(streams, fleet.nodes.pop().kill)
    assert [stream.tokens == whole.tokens for stream in streams] == [True] * 4
    assert len(fleet.processes()) == 1
    fleet.start_node()
    fleet.until_replicas(2)


def test_a_node_that_is_told_to_stop_cuts_no_stream(fleet):
    fleet.until_replicas(2)
    with running_loads(fleet, 4) as loads:
        node = fleet.nodes.pop()
        node.process.terminate()
        node.process.wait(120)
        assert len(fleet.processes()) == 1
    assert [load.faults for load in loads] == [[]] * 4
    fleet.start_node()
    fleet.until_replicas(2)


def test_a_second_head_is_refused(fleet):
    done = fleet.run("node", str(fleet.file), "--head")
    assert done.returncode == 2
    assert "is it the fleet's head?" in done.stderr


def test_a_killed_head_comes_back_with_the_application(fleet):
    fleet.until_replicas(2)
    # Without a head nobody tells the other HAProxy of its replica: it has to know it by now.
    fleet.until_replicas(2, port=fleet.port_2)
    session = ResumedStream(fleet.server, new_session(fleet.server), 200)
    session.run()
    fleet.nodes.pop(0).kill()
    with pytest.raises(httpx2.HTTPError):
        httpx2.get(f"http://127.0.0.1:{fleet.port}/health", timeout=5)
    other = Server(fleet.port_2, fleet.nodes[0].process, fleet.nodes[0].log)
    for _ in range(8):  # by the HAProxy of the other machine, which is told of no change now
        ResumedStream(other, new_session(other), 200).run()
    fleet.start_node(is_head=True)
    fleet.nodes.insert(0, fleet.nodes.pop())
    fleet.until_replicas(2)  # nobody has called `up`
    reply = httpx2.get(f"{fleet.server.url}/sessions/{session.session}", timeout=30)
    assert reply.status_code == 200
    assert fleet.status()["application"] == "RUNNING"


def test_a_node_without_haproxy_is_refused(tmp_path):
    with tcp_store(tmp_path) as store, ray_fleet(tmp_path, store.url) as fleet:
        fleet.start_plain_head()
        done = fleet.run("up", str(fleet.file))
    assert done.returncode == 2
    assert "Ray's proxy in Python serves streams at less than half the speed" in done.stderr
    assert done.stderr.count("\n") == 1


def streams_of(fleet: RayFleet, n: int) -> list[ResumedStream]:
    return [ResumedStream(fleet.server, new_session(fleet.server), N) for _ in range(n)]


def run_through(streams: list[ResumedStream], fault: Callable[[], None]) -> None:
    """Read the streams to their ends; the fault comes when each of them has begun."""
    with concurrent.futures.ThreadPoolExecutor(len(streams)) as pool:
        running = [pool.submit(stream.run) for stream in streams]
        until = time.monotonic() + 60
        while not all(stream.has_begun for stream in streams):
            assert time.monotonic() < until, "a stream has not begun"
            time.sleep(0.005)
        fault()
        for one in running:
            one.result(180)
