"""A backup, made as docs/how-to/backup.md says, is restored: sessions go on to the bit."""

import shutil

import httpx2

from tests.api.conftest import new_home
from tests.process import serving
from tests.sessions.valkey import own_store

LOST_SECRET = "secret is missing beside data: put it there from the backup"


def say(url: str, session: str) -> str:
    """Continue a session by one turn."""
    body = {"session_id": session, "inputs": "", "parameters": {"max_new_tokens": 40}}
    reply = httpx2.post(f"{url}/generate", json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.json()["generated_text"]


def begin(url: str) -> str:
    session = httpx2.post(f"{url}/sessions", json={"text": "The ", "seed": 3}, timeout=30).json()
    say(url, session["id"])
    return session["id"]


def test_the_folders_of_a_stopped_server_are_a_backup(tmp_path):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    with serving(new_home(home)) as server:
        session = begin(server.url)
    for folder in ("model_store", "data"):
        shutil.copytree(home / folder, elsewhere / folder, ignore=shutil.ignore_patterns("socket"))
    with serving(home) as server:
        expected = say(server.url, session)
    with serving(elsewhere) as server:
        assert say(server.url, session) == expected
        position = httpx2.get(f"{server.url}/sessions/{session}", timeout=30).json()["position"]
        assert LOST_SECRET not in server.log.read_text()
    (elsewhere / "data" / "secret").unlink()
    with serving(elsewhere) as server:
        assert LOST_SECRET in server.log.read_text()
        reply = httpx2.get(f"{server.url}/sessions/{session}", timeout=30).json()
        assert reply["position"] == position


def test_the_log_of_a_running_valkey_is_a_backup(tmp_path):
    home, first, second = (tmp_path / name for name in ("home", "first", "second"))
    for folder in (home, first, second):
        folder.mkdir()
    new_home(home)
    secret = "s" * 32
    with (
        own_store(first) as store,
        serving(home, CAROUSEL_REDIS_URL=store.url, CAROUSEL_SECRET=secret) as server,
    ):
        session = begin(server.url)
        store.client.config_set("auto-aof-rewrite-percentage", 0)
        shutil.copytree(first / "appendonlydir", second / "appendonlydir")
        expected = say(server.url, session)
    with (
        own_store(second) as store,
        serving(home, CAROUSEL_REDIS_URL=store.url, CAROUSEL_SECRET=secret) as server,
    ):
        assert say(server.url, session) == expected
