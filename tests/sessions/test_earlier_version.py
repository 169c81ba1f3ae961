"""A session that an earlier version, which wrote no checksums, has continued in between."""

import hashlib

import pytest

from service.sessions.redis_client import read_scripts
from tests.sessions.valkey import OwnValkey

RECORD = "carousel:session:o/x"
NUMBERS = "epoch turn turn_epoch start first finish base shared state_shared forks"
EMPTY = "chain active holder nonce request_key snapshot"


@pytest.fixture
def store(tmp_path):
    valkey = OwnValkey(tmp_path)
    valkey.start()
    yield valkey
    valkey.close()


@pytest.mark.parametrize("prompt", [b"", b"dd"], ids=["no-prompt", "prompt"])
def test_a_turn_after_one_without_checksums_leaves_a_session_that_is_read(store, prompt):
    scripts = read_scripts()

    def call(name, keys, *arguments):
        return store.client.eval(scripts[name], len(keys), *keys, *arguments)

    fields = {"model": "m@1", "digest": "d", "width": 1, "seed": "0" * 16, "status": "none"}
    fields |= {"position": 10, "stamp": "st", "tail": "T"}
    fields |= dict.fromkeys(NUMBERS.split(), 0) | dict.fromkeys(EMPTY.split(), "")
    flat = [part for pair in fields.items() for part in pair]
    made = call("create", [RECORD], "birth", 3600, b"a" * 10, b"", 0, "run", "0000run", *flat)
    assert made[0] == b"CREATED"
    store.client.append("carousel:log:T", b"b" * 10)  # a turn of the earlier version
    store.client.hset(RECORD, "position", 20)
    keys = [RECORD, "carousel:retry:"]
    turn = ["proc", "0000run", "turn", "birth", "", prompt, "{}", "", 100, "", "60", 10_000, ""]
    assert call("begin", keys, "nonce", "stamp2", *turn)[0] == b"BEGUN"
    tokens = b"c" * 5
    at, checksum = 20 + len(prompt), hashlib.sha1(tokens).hexdigest()[:8]
    end = [at, tokens, "length", "", b"", "", checksum]
    assert call("commit", [RECORD], "rv", "nonce", *end)[0] == b"COMMITTED"
    assert call("read", [RECORD], 0, "")[0] == b"FOUND"
    assert call("begin", keys, "n3", "s3", *turn)[0] == b"BEGUN"
