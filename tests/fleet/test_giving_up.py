"""A server whose processes cannot start."""

import subprocess
import sys

import pytest

from service.restart_limit import MOST_RESTARTS
from tests.process import ROOT

PROGRAM = """
import os, socket
from service.process_supervisor import PlaceSockets, ProcessSupervisor
from service.telemetry import log_to_stderr

log_to_stderr("info", "text")
listener = socket.create_server(("127.0.0.1", 0))
environment = os.environ | {"PYTHONHOME": "/nowhere"}  # no interpreter starts
supervisor = ProcessSupervisor(
    [PlaceSockets([listener], None)], environment, "shared", lambda: print("ready"), 5.0
)
print(supervisor.run(), listener.fileno())
"""


@pytest.mark.slow
def test_it_gives_up_and_says_so():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout.split() == ["None", "-1"], done  # nothing hangs on its port
    assert done.stderr.count("it is restarted") == MOST_RESTARTS
    assert f"has ended {MOST_RESTARTS + 1} times" in done.stderr
    assert "no process of the server can be kept running" in done.stderr
