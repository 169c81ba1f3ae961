"""What a replica checks before it starts, and what is told of one that does not start."""

import os

import pytest

from service.errors import BadRequest
from service.ray.environment import replica_settings
from service.ray.telling_line import telling_line

HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}
STORE = {"CAROUSEL_REDIS_URL": "redis://x"}
SECRET = {"CAROUSEL_SECRET": "a-secret-that-every-node-has-and-nobody-else"}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("CAROUSEL_", "RAY_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            STORE | SECRET,
            "Ray's proxy in Python serves streams at less than half the speed and is refused",
        ),
        (STORE | SECRET | {"RAY_SERVE_ENABLE_HA_PROXY": "0"}, "Ray's proxy in Python serves"),
        (SECRET | HAPROXY, "this node has no CAROUSEL_REDIS_URL"),
        (STORE | HAPROXY, "or no CAROUSEL_SECRET"),
    ],
)
def test_a_replica_refuses_a_node_that_is_none_of_a_fleet(monkeypatch, variables, sentence):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadRequest, match=sentence):
        replica_settings()


def test_a_replica_of_a_fleet_starts(monkeypatch):
    for name, value in (STORE | SECRET | HAPROXY).items():
        monkeypatch.setenv(name, value)
    assert replica_settings().has_shared_store


TRACEBACK = """ray::Replica.initialize() (pid=1)
  File "replica.py", line 1, in __init__
service.errors.BadRequest: CAROUSEL_SECRET has 3 characters
[ALERT] (1) : cannot bind socket
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (TRACEBACK, "BadRequest: CAROUSEL_SECRET has 3 characters"),
        (TRACEBACK.replace("service.errors.", ""), "[ALERT] (1) : cannot bind socket"),
        ("a  b\nc", "a b c"),
    ],
)
def test_of_a_traceback_the_line_that_says_what_is_wrong_is_told(text, line):
    assert telling_line(text) == line
