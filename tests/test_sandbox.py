"""Every way in which a limited child process can end."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import Validation
from service.sandbox import SandboxError, SandboxLimits, run_sandboxed

LIMITS = SandboxLimits(memory_bytes=10**9, cpu_s=20, file_bytes=5_000, wall_s=60.0)
FAILED = "failed; it may need more than its 1000000000 bytes of memory"


@pytest.fixture
def run(tmp_path):
    """A function: the argument of tests/sandboxed.py → its result."""

    def result(argument, module="tests.sandboxed", **limits):
        return run_sandboxed(module, argument, tmp_path, replace(LIMITS, **limits), "the test")

    return result


def test_a_result_comes_back_and_the_environment_stays_here(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CAROUSEL_SECRET", "x")
    echo, names, folder = run("echo")
    assert (echo, folder) == ("echo", str(tmp_path))
    assert "CAROUSEL_SECRET" not in names
    assert "TMPDIR" in names


def test_an_error_of_the_call_is_raised_here(run):
    with pytest.raises(Validation, match=r"no \\udc80 text"):
        run("refuse")
    with pytest.raises(OSError, match="File too large"):
        run("write")


@pytest.mark.parametrize(
    ("argument", "limits", "message"),
    [
        ("sleep", {"wall_s": 0.1}, "took longer than its 0.1 seconds and was stopped"),
        ("spin", {"cpu_s": 1}, "took more than its 1 seconds of CPU time"),
        ("allocate", {}, FAILED),
        ("exit", {}, FAILED),
        ("flood", {}, FAILED),
        ("bug", {}, FAILED),
        ("another error", {}, FAILED),
        ("crash", {}, "crashed (SIGSEGV); its input may be damaged"),
        ("vanish", {}, "ended without a result that can be read"),
    ],
)
def test_a_child_that_has_no_result_is_an_error_that_says_why(run, argument, limits, message):
    start = time.monotonic()
    with pytest.raises(SandboxError) as error:
        run(argument, **limits)
    assert str(error.value) == f"the test {message}"
    assert time.monotonic() - start < 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the end of a parent")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_ends_with_the_process_that_started_it(tmp_path, number):
    program = (
        "from pathlib import Path; from service.sandbox import *; "
        f"run_sandboxed('tests.sandboxed', 'report and sleep', Path({str(tmp_path)!r}), "
        "SandboxLimits(10**9, 20, 5_000, 60.0), 'the test')"
    )
    report = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        try:
            wait_for(lambda: report.exists() and report.read_text())
            child = Path("/proc") / report.read_text()
            assert child.exists()
        finally:
            parent.send_signal(number)
        parent.wait(10)
    wait_for(lambda: not child.exists() or "State:\tZ" in (child / "status").read_text())


def wait_for(condition, timeout_s=10.0):
    """Wait until a condition holds; fail after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
