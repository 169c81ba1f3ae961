"""What a replica checks before it starts, whoever has started it."""

import subprocess
import sys

import pytest

from tests.process import ROOT

pytest.importorskip("ray", reason="the extra `ray` is not installed")

START = """
import asyncio
from service.ray.replica import Replica
try:
    asyncio.run(Replica.__init__(object.__new__(Replica)))
    print("started")
except Exception as error:
    print(type(error).__name__, error)
"""
SECRET = "a-secret-that-every-node-has-and-nobody-else"


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "Ray's proxy in Python serves streams at less than half the speed and is refused"),
        ({"RAY_SERVE_ENABLE_HA_PROXY": "0"}, "Ray's proxy in Python serves streams"),
        ({"RAY_SERVE_ENABLE_HA_PROXY": "1"}, "this node has no CAROUSEL_REDIS_URL"),
        (
            {"RAY_SERVE_ENABLE_HA_PROXY": "1", "CAROUSEL_REDIS_URL": "redis://x"},
            "or no CAROUSEL_SECRET",
        ),
    ],
)
def test_a_replica_refuses_a_node_that_is_none_of_a_fleet(variables, sentence):
    done = subprocess.run(
        [sys.executable, "-c", START],
        env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("BadRequest ")
    assert sentence in done.stdout
