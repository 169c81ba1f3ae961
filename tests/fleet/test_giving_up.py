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


NO_ROOM = PROGRAM.replace(
    'environment = os.environ | {"PYTHONHOME": "/nowhere"}  # no interpreter starts',
    "environment = os.environ",
).replace(
    "print(supervisor.run()",
    "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (listener.fileno() + 1,) * 2)\n"
    "print(supervisor.run()",
)


@pytest.mark.slow
def test_it_says_so_where_the_system_has_no_room_for_a_process():
    """As many files are open as may be, so that no pipe can be made."""
    assert NO_ROOM.count("RLIMIT_NOFILE") == 1
    done = ended(NO_ROOM)
    assert done.stdout.split() == ["None", "-1"], done
    assert done.stderr.count("cannot be started: [Errno 24]") == MOST_RESTARTS + 1
    assert "Traceback" not in done.stderr
    assert "no process of the server can be kept running" in done.stderr


def ended(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.slow
def test_it_gives_up_and_says_so():
    done = ended(PROGRAM)
    assert done.stdout.split() == ["None", "-1"], done  # nothing hangs on its port
    assert done.stderr.count("it is restarted") == MOST_RESTARTS
    assert f"has ended {MOST_RESTARTS + 1} times" in done.stderr
    assert "no process of the server can be kept running" in done.stderr
