"""The connection to the store: pipelined calls, bounded waits, and replies to their callers."""

import asyncio
import os
import random
import signal
import time

import pytest
from hiredis import ReplyError

from service.errors import BadRequest, CarouselError, StoreFull, StoreUnavailable
from service.sessions.config import SessionConfig
from service.sessions.redis_client import (
    ScriptClient,
    check_store,
    check_store_config,
    read_scripts,
)
from service.sessions.redis_connection import open_connection

CONFIG = SessionConfig()
INFO = "redis_version:7.2.4\nloading:0\nrole:master\nmaxmemory_policy:noeviction\nrun_id:abcdef0123"


@pytest.fixture
async def connection(store):
    opened = await open_connection(store.url, CONFIG.answer_timeout_s)
    yield opened
    opened.close()
    await asyncio.sleep(0.01)


@pytest.fixture
async def client(store):
    made = ScriptClient(store.url, CONFIG)
    yield made
    await made.close()
    await asyncio.sleep(0.01)


async def test_every_caller_gets_its_own_reply_if_others_are_cancelled(connection):
    """A cancelled call must not shift the others' replies (ChatGPT's incident of March 2023)."""
    chance = random.Random(1)

    async def echo(i: int) -> None:
        assert await connection.call("ECHO", str(i)) == str(i).encode()

    async def leave(i: int) -> None:
        future = connection.call("ECHO", str(i))
        await asyncio.sleep(chance.random() / 1e4)
        future.cancel()

    for _ in range(20):
        actions = [echo(i) if chance.random() < 0.6 else leave(i) for i in range(50)]
        await asyncio.gather(*actions)
    assert connection.is_open


async def test_a_store_that_hangs_fails_every_call_in_bounded_time(store, client):
    await client.execute("PING")
    pid = store._process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        calls = [client.execute("PING") for _ in range(100)]
        replies = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(reply, StoreUnavailable) for reply in replies)
        assert time.monotonic() - began < CONFIG.call_timeout_s + 3
    finally:
        os.kill(pid, signal.SIGCONT)
    assert await client.execute("PING") == b"PONG"


async def test_a_store_that_comes_back_is_used_again_and_named_anew(store, client):
    await client.execute("PING")
    before = client.run_id
    store.restart()
    assert await client.execute("PING") == b"PONG"
    assert client.run_id not in {"", before}


async def test_each_new_connection_begins_with_the_greeting(store, client):
    client.greeting = ("SET", "greeted", "1")
    await client.execute("PING")
    store.client.flushall()
    store.client.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(0.1)
    await client.execute("PING")
    assert store.client.exists("greeted") == 1


async def test_a_script_that_the_store_lacks_is_loaded_again(store, client):
    await client.execute("PING")
    store.client.script_flush()
    assert await client.call("delete", ["nothing"], [1]) == [b"NOT_FOUND"]


async def test_no_server_is_unavailable_in_bounded_time(tmp_path):
    for url in (f"unix://{tmp_path}/none", "redis://127.0.0.1:1/0"):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await ScriptClient(url, CONFIG).execute("PING")
        assert time.monotonic() - began < CONFIG.call_timeout_s + 3


async def test_a_wrong_password_is_unavailable_and_not_logged(store, caplog):
    store.client.config_set("requirepass", "right")
    try:
        with pytest.raises(StoreUnavailable):
            await ScriptClient(store.url, CONFIG).execute("PING")
        right = ScriptClient(store.url.replace("unix://", "unix://:right@"), CONFIG)
        assert await right.execute("PING") == b"PONG"
        await right.close()
    finally:
        store.client.auth("right")
        store.client.config_set("requirepass", "")
    assert "right" not in caplog.text


async def test_a_full_store_refuses_writes_and_serves_reads(store, client):
    fields = ["model", "m", "tail", "t", "base", 0, "chain", "", "width", 1, "position", 0]
    fields += ["snapshot", "", "shared", 0, "holder", "", "active", "", "first", 0, "finish", 0]
    await client.call("create", ["carousel:session:/s"], ["n", 100, b"", b"", 0, *fields])
    store.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreFull):
            await client.call("create", ["carousel:session:/k"], ["n", 100, b"", b"", 0, *fields])
        assert (await client.call("read", ["carousel:session:/s"], [0, ""]))[0] == b"FOUND"
        assert await client.call("delete", ["carousel:session:/s"], [1]) == [b"DELETED"]
    finally:
        store.client.config_set("maxmemory", 0)
    assert store.client.exists("carousel:session:/k") == 0


async def test_a_replica_is_not_even_read_from(store, client):
    await client.execute("PING")
    store.client.replicaof("127.0.0.1", 1)
    try:
        with pytest.raises(StoreUnavailable, match="replica"):
            await client.call("read", ["carousel:session:/s"], [0, ""])
        with pytest.raises(StoreUnavailable, match="replica"):
            await ScriptClient(store.url, CONFIG).execute("PING")
    finally:
        store.client.execute_command("REPLICAOF NO ONE")


async def test_an_evicting_store_is_refused_for_good(store):
    store.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(BadRequest, match="noeviction"):
            await check_store_config(store.url, CONFIG)
    finally:
        store.client.config_set("maxmemory-policy", "noeviction")
    await check_store_config(store.url, CONFIG)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (("7.2.4", "6.2.14"), BadRequest),
        (("noeviction", "volatile-ttl"), BadRequest),
        (("loading:0", "loading:1"), StoreUnavailable),
        (("role:master", "role:slave"), StoreUnavailable),
    ],
)
def test_what_a_store_may_be(change, error):
    assert check_store(INFO) == "abcdef01"
    with pytest.raises(error) as raised:
        check_store(INFO.replace(*change))
    assert isinstance(raised.value, CarouselError)


async def test_every_script_compiles_and_evaluates_no_text(connection):
    for name, text in read_scripts().items():
        assert not isinstance(await connection.call("SCRIPT", "LOAD", text), ReplyError), name
        assert "loadstring" not in text
