"""A call in a child process with limits on memory, CPU time, file size and wall time.

`run_sandboxed` starts `python -m service.sandbox MODULE PARENT LIMITS`. The child sets the limits
before it imports more than the standard library, reads the argument as JSON from standard input,
calls `run(argument)` of the module and writes the result as JSON to standard output. On Linux it
ends when its parent does.
"""

import ctypes
import importlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import BadCheckpoint, CarouselError, TooLarge, Validation

MAX_ANSWER_BYTES = 16 * 1024 * 1024
_OPEN_FILES = 256
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_GRACE_S = 5
_ERRORS: dict[str, type[CarouselError]] = {
    error.code: error for error in (BadCheckpoint, TooLarge, Validation)
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Limits of one child process. `memory_bytes` is address space; `file_bytes` is per file."""

    memory_bytes: int
    cpu_s: int
    file_bytes: int
    wall_s: float


class SandboxError(Exception):
    """A child process that ended without a result; the message names the limit or the cause.

    `signal` is the number of the signal that ended the child, 0 if it was none.
    """

    def __init__(self, message: str, signal: int = 0) -> None:
        super().__init__(message)
        self.signal = signal


class SandboxChildren:
    """The child processes that run now, so that a stop ends them. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._have_ended = False

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """Add a process, which is ended at once after `end`."""
        with self._lock:
            self._processes.add(process)
            if self._have_ended:
                process.kill()

    def remove(self, process: subprocess.Popen[bytes]) -> None:
        """Remove a process that has ended."""
        with self._lock:
            self._processes.discard(process)

    def end(self) -> None:
        """End all of them, for good."""
        with self._lock:
            self._have_ended = True
            for process in self._processes:
                process.kill()


def run_sandboxed(
    module: str,
    argument: object,
    folder: Path,
    limits: SandboxLimits,
    subject: str,
    environment: Mapping[str, str] | None = None,
    children: SandboxChildren | None = None,
) -> Any:
    """Return the result of `run(argument)` of a module; argument and result are JSON values.

    The child works in `folder` and gets none of this process's environment but `environment`.
    `subject` begins the message of a SandboxError. `children` has the child as long as it runs.
    Blocks; safe from any thread.

    Raises BadCheckpoint, TooLarge, Validation and OSError where the call does, and SandboxError
    where the child reaches a limit, crashes or gives no result.
    """
    numbers = map(str, (limits.memory_bytes, limits.cpu_s, limits.file_bytes))
    start = time.monotonic()
    with subprocess.Popen(  # noqa: S603 - our own module, and no shell
        [sys.executable, "-P", "-m", "service.sandbox", module, str(os.getpid()), *numbers],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(folder) | dict(environment or {}),
        cwd=folder,
        start_new_session=True,
    ) as process:
        timer = threading.Timer(limits.wall_s, process.kill)
        timer.start()
        if children is not None:
            children.add(process)
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError), process.stdin as stdin:  # broken if it ended early
                stdin.write(json.dumps(argument).encode())
            with process.stdout as stdout:
                answer = stdout.read(MAX_ANSWER_BYTES)
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()  # does nothing if it has ended
            if children is not None:
                children.remove(process)
    if status != 0:
        reason = _how_it_ended(status, limits, time.monotonic() - start)
        raise SandboxError(f"{subject} {reason}", max(0, -status))
    return _result(answer, limits, subject)


def _how_it_ended(status: int, limits: SandboxLimits, took_s: float) -> str:
    if status == -signal.SIGKILL and took_s >= limits.wall_s:
        return f"took longer than its {limits.wall_s} seconds and was stopped"
    if status == -signal.SIGXCPU:
        return f"took more than its {limits.cpu_s} seconds of CPU time"
    if status < 0 and status != -signal.SIGKILL:
        return f"crashed ({signal.Signals(-status).name}); its input may be damaged"
    return _failed(limits)


def _failed(limits: SandboxLimits) -> str:
    return f"failed; it may need more than its {limits.memory_bytes} bytes of memory"


def _result(answer: bytes, limits: SandboxLimits, subject: str) -> Any:
    """Return the result in an answer, or raise the error in it."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise SandboxError(f"{subject} ended without a result that can be read") from error
    match value:
        case {"result": result}:
            return result
        case {"code": str(code), "message": str(message)} if code in _ERRORS:
            raise _ERRORS[code](message)
        case {"errno": int(number)}:
            raise OSError(number, os.strerror(number))
    _log.warning("%s failed: %s", subject, value)
    raise SandboxError(f"{subject} {_failed(limits)}")


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name == "NUMBA_CACHE_DIR"}
    return kept | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(folder),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
    }


def _main() -> None:
    """Answer one request within limits; exit with status 0 whenever there is an answer."""
    module, parent, *numbers = sys.argv[1:]
    _end_with_parent(int(parent))
    _limit_process(*map(int, numbers))
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as output:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the module prints is no answer
        json.dump(_answer(module, json.load(sys.stdin)), output)


def _end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends (prctl(2), Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        sys.exit(1)


def _limit_process(memory_bytes: int, cpu_s: int, file_bytes: int) -> None:
    """Limit this process for good: the hard limits are set, too."""
    limits = {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
    }
    if sys.platform != "darwin":  # macOS has RLIMIT_AS but does not enforce it
        limits[resource.RLIMIT_AS] = memory_bytes
    for which, limit in limits.items():
        _, hard = resource.getrlimit(which)
        # The soft limit of CPU time sends SIGXCPU; at the hard one it would be SIGKILL.
        ceiling = limit + _GRACE_S if which == resource.RLIMIT_CPU else limit
        if hard != resource.RLIM_INFINITY:
            ceiling = min(ceiling, hard)
        resource.setrlimit(which, (min(limit, ceiling), ceiling))


def _answer(module: str, argument: object) -> dict[str, object]:
    try:
        return {"result": importlib.import_module(module).run(argument)}
    except CarouselError as error:  # its message may quote bytes that are no characters
        message = str(error).encode("utf-8", "backslashreplace").decode()
        return {"code": error.code, "message": message}
    except OSError as error:
        return {"errno": error.errno}
    except Exception as error:  # noqa: BLE001 - the parent logs it
        return {"failure": repr(error)}


if __name__ == "__main__":
    _main()
