"""Unloading beside a stream that takes long: an answer at once, and an end that is told."""

import time

import httpx2

from tests.api.conftest import new_home
from tests.attack.test_drain import streams
from tests.process import Server, serving


def row(server: Server) -> dict:
    models = httpx2.get(f"{server.url}/admin/models", timeout=30).json()["models"]
    return next(one for one in models if one["name"] == "demo")


def test_an_unload_answers_draining_and_its_limit_ends_the_stream(tmp_path):
    with serving(new_home(tmp_path)) as server:
        path = f"{server.url}/admin/models/demo@1"
        stream = streams(server, 1)[0]
        reply = httpx2.post(f"{path}/unload", timeout=10)
        assert (reply.status_code, reply.json()["status"]) == (200, "draining")
        assert row(server)["status"] == "draining"
        assert row(server)["bytes"] > 0
        before = len(stream.body)
        until(lambda: len(stream.body) > before + 10_000)
        assert row(server)["status"] == "draining", "never stored while it still writes"
        refused = httpx2.post(f"{server.url}/generate", json={"inputs": "a"}, timeout=10)
        assert (refused.status_code, refused.json()["error_type"]) == (409, "model_unloaded")
        assert httpx2.delete(path, timeout=10).status_code == 409
        again = httpx2.post(f"{path}/unload", json={"drain_s": 0}, timeout=10)
        assert again.json()["status"] in {"draining", "stored"}
        stream.join(10)
        assert stream.told == "draining"
        until(lambda: row(server)["status"] == "stored")
        assert row(server)["bytes"] == 0


def test_a_load_does_not_wait_for_the_streams_of_an_unloaded_model(tmp_path):
    with serving(new_home(tmp_path)) as server:
        path = f"{server.url}/admin/models/demo@1"
        stream = streams(server, 1)[0]
        httpx2.post(f"{path}/unload", timeout=10)
        assert httpx2.post(f"{path}/load", timeout=30).json()["status"] == "ready"
        assert stream.is_alive()
        assert httpx2.post(f"{server.url}/generate", json={"inputs": "a"}, timeout=30).is_success


def until(is_so) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)
