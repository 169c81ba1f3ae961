"""A server's private Valkey: it runs while the server runs, and its sessions are kept."""

import os
import signal
import time

import httpx2
import psutil
import pytest

from tests.api.conftest import new_home
from tests.conftest import stores_under
from tests.process import serving

END_LIMIT_S = 10.0
SIGNALS = [
    signal.SIGKILL,
    *(pytest.param(end, marks=pytest.mark.slow) for end in (signal.SIGTERM, signal.SIGINT)),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return new_home(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("end", SIGNALS)
def test_a_valkey_ends_with_its_server_and_the_next_server_has_its_sessions(home, end):
    with serving(home) as server:
        (valkey,) = stores_under(str(home))
        with httpx2.Client(base_url=server.url, timeout=30) as http:
            session = http.post("/sessions", json={"text": "The ", "seed": 4}).json()["id"]
            body = {"inputs": "", "session_id": session, "parameters": {"max_new_tokens": 20}}
            generated = http.post("/generate", json=body).json()["generated_text"]
        os.kill(server.process.pid, end)
        server.process.wait(20)
        _wait_for_the_end_of(valkey)
    with serving(home) as server, httpx2.Client(base_url=server.url, timeout=30) as http:
        assert http.get(f"/sessions/{session}/text").json()["text"] == "The " + generated
        assert len(stores_under(str(home))) == 1


def test_a_killed_valkey_is_restarted_with_its_data(home):
    with serving(home) as server, httpx2.Client(base_url=server.url, timeout=30) as http:
        session = http.post("/sessions", json={"text": "The "}).json()["id"]
        (valkey,) = stores_under(str(home))
        os.kill(valkey, signal.SIGKILL)
        assert http.get(f"/sessions/{session}").json()["position"] == 4
        assert stores_under(str(home)) not in ([], [valkey])


@pytest.mark.slow
def test_two_servers_of_one_folder_share_one_valkey(home, tmp_path):
    with (
        serving(home) as one,
        serving(new_home(tmp_path), CAROUSEL_DATA_DIR=str(home / "data")) as two,
    ):
        assert len(stores_under(str(home))) == 1
        with httpx2.Client(timeout=30) as http:
            session = http.post(f"{one.url}/sessions", json={"text": "The "}).json()["id"]
            assert http.get(f"{two.url}/sessions/{session}").json()["position"] == 4


def _wait_for_the_end_of(pid: int) -> None:
    until = time.monotonic() + END_LIMIT_S
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "the store has outlived its server"
        time.sleep(0.02)
