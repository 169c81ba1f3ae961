"""A worker as a server starts it."""

import os
import signal
import subprocess
import sys

from tests.process import ROOT, environment
from tests.sessions.valkey import OwnValkey


def test_a_worker_whose_parent_is_gone_before_it_looks_ends(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    store = OwnValkey(tmp_path)
    store.start()
    try:
        settings = environment(tmp_path, 1, CAROUSEL_REDIS_URL=store.url)
        assert ended(gone.pid, settings) == -signal.SIGKILL
        assert ended(os.getpid(), settings) is None
    finally:
        store.close()


def ended(parent, settings):
    """How a worker of this parent ends by itself; None where it does not."""
    command = [sys.executable, "-m", "service", "worker", "--parent", str(parent)]
    with subprocess.Popen(command, env=settings, cwd=ROOT) as worker:
        try:
            return worker.wait(20 if parent != os.getpid() else 5)
        except subprocess.TimeoutExpired:
            return None
        finally:
            worker.kill()
