"""What a start needs, checked before anything is started: each fault is one sentence."""

import errno
import importlib.util
import os
import socket
import sys
from pathlib import Path

from service.errors import BadRequest, Validation
from service.limits.limits import Limits
from service.settings import LEAST_ADMIN_KEY, Settings

TRAINING_MODULES = ("tensorflow", "keras", "matplotlib")
TRAINING_EXTRA = "pip install 'carousel-serve[train]'"
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # as IPv6 on many machines
_BACKLOG = 2048

_UNSENT_LIMIT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_UNSENT_BYTES = 32 * 1024
"""What the system keeps of a connection beyond what it has sent. Its own limit is megabytes, which
are tens of thousands of events computed for a client that reads none."""


def check_int8_kernel(settings: Settings, instructions: str) -> None:
    """Check that the processor has the kernel that was asked for. Raises BadRequest.

    `instructions` are those that the own kernel uses here, "" if there are none.
    """
    if settings.int8_kernel == "own" and not instructions:
        raise BadRequest(
            "CAROUSEL_INT8_KERNEL is own, but this processor has no AVX2; set it to auto"
        )


def check_device(settings: Settings) -> None:
    """Check that there is a GPU where one was asked for. Raises BadRequest."""
    if settings.device != "gpu":
        return
    from service.models.onnx_device import check_gpu  # noqa: PLC0415 (it needs ONNX Runtime)

    try:
        check_gpu()
    except Validation as error:
        raise BadRequest(f"CAROUSEL_DEVICE is gpu, but {error}") from error


def check_folders(settings: Settings) -> None:
    """Create the folders of a server, and check that each can be used. Raises BadRequest.

    Only the data folder has to be writable: models and checkpoints may be mounted read-only.
    """
    check_folder(settings.data_dir, "CAROUSEL_DATA_DIR", is_written=True)
    check_folder(settings.model_store, "CAROUSEL_MODEL_STORE")
    check_folder(settings.import_dir, "CAROUSEL_IMPORT_DIR")


def check_folder(path: Path, setting: str, *, is_written: bool = False) -> None:
    """Create a folder if it is missing, and check that it can be used. Raises BadRequest."""
    another = f"set {setting} to another folder"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise BadRequest(
            f"{setting} is {path}, which is a file or lies below one; {another}"
        ) from error
    except OSError as error:
        raise BadRequest(
            f"{setting} is {path}, which cannot be created ({error.strerror}); {another}"
        ) from error
    if not os.access(path, os.R_OK | os.X_OK):
        raise BadRequest(f"{setting} is {path}, which may not be read; {another}")
    if is_written and not os.access(path, os.W_OK | os.X_OK):
        raise BadRequest(
            f"{setting} is {path}, which may not be written by user {os.geteuid()}; "
            f"change its owner, or {another}"
        )


def check_training(what: str) -> None:
    """Check that the extra that trains is installed. Raises BadRequest: `what` needs it."""
    missing = [name for name in TRAINING_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise BadRequest(
            f"{what} needs {', '.join(missing)}, which this installation lacks: {TRAINING_EXTRA}"
        )


def admin_key_of(settings: Settings) -> str | None:
    """Return CAROUSEL_ADMIN_KEY, None if there is none. Raises BadRequest if it is too short."""
    given = settings.admin_key.get_secret_value() if settings.admin_key else ""
    if not given:  # a compose file writes an empty one where there is none
        return None
    if len(given) < LEAST_ADMIN_KEY:
        raise BadRequest(
            f"CAROUSEL_ADMIN_KEY has {len(given)} characters; it needs at least {LEAST_ADMIN_KEY}"
        )
    return given


def lost_secret_of(settings: Settings) -> str | None:
    """Return what is wrong with a data folder that has data and no secret; None if nothing is."""
    folder = settings.data_dir
    is_used = any((folder / "valkey" / "appendonlydir").glob("*"))
    if settings.secret is not None or not is_used or (folder / "secret").exists():
        return None
    return (
        f"{folder / 'secret'} is missing beside data: put it there from the backup; otherwise a "
        "new one is made, exports of before are refused, and a session that is lost is a 404"
    )


def default_limits_of(settings: Settings) -> Limits:
    """Return the limits of CAROUSEL_DEFAULT_LIMITS. Raises BadRequest if it has others."""
    try:
        return Limits.parse(settings.default_limits)
    except Validation as error:
        raise BadRequest(f"CAROUSEL_DEFAULT_LIMITS: {error}") from error


def needs_no_key(settings: Settings) -> bool:
    """Whether a server may start without a key in its store. Raises as `admin_key_of`."""
    return settings.is_loopback or settings.allow_anonymous or admin_key_of(settings) is not None


def exposed(settings: Settings) -> BadRequest:
    """Return the refusal of an address that others reach while nobody needs a key."""
    return BadRequest(
        f"CAROUSEL_HOST is {settings.host}, where others could use the server without a "
        "key: make one with `carousel keys add NAME --scope generate` (a private network "
        "of your own: CAROUSEL_ALLOW_ANONYMOUS=true)"
    )


def listen(
    host: str, port: int, setting: str = "CAROUSEL_PORT", *, is_shared: bool = False
) -> list[socket.socket]:
    """Take a port on every address of a host. Raises BadRequest.

    Connections wait to be accepted: a socket that does not listen would leave the port to others.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise BadRequest(
            f"{host[:200]!r} is no address of this machine ({error}); "
            "set CAROUSEL_HOST to one, such as 127.0.0.1"
        ) from error
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            listener = _listener(family, kind, protocol, address, is_shared=is_shared)
            sockets.append(listener)
        except OSError as error:
            problem = error
            if error.errno not in _NOT_HERE:
                break
    if problem is not None and (not sockets or problem.errno not in _NOT_HERE):
        for each in sockets:
            each.close()
        raise BadRequest(_refusal(host, port, setting, problem)) from problem
    return sockets


def listen_in_places(host: str, port: int, n: int) -> list[list[socket.socket]]:
    """Take a port for `n` processes; each has sockets of its own. Raises BadRequest.

    Linux spreads connections over the sockets by their addresses. Elsewhere all have the same ones.
    """
    listen_to = listen(host, port)
    if n == 1 or sys.platform != "linux":
        return [listen_to] * n
    for each in listen_to:  # a port that is free; others may now take it only with the option
        each.close()
    return [listen(host, port, is_shared=True) for _ in range(n)]


def _listener(
    family: socket.AddressFamily,
    kind: socket.SocketKind,
    protocol: int,
    address: object,
    *,
    is_shared: bool = False,
) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        # A port may be taken again whose last connections are still being closed.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # the address of IPv4 has a socket of its own
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if _UNSENT_LIMIT is not None:  # each connection has it from its listener
            listener.setsockopt(socket.IPPROTO_TCP, _UNSENT_LIMIT, _UNSENT_BYTES)
        listener.bind(address)  # type: ignore[arg-type]  # as getaddrinfo returned it
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _refusal(host: str, port: int, setting: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use by another process; "
            f"end it, or set {setting} to another port"
        )
    if error.errno == errno.EACCES:
        return (
            f"port {port} of {host} is reserved for privileged users; "
            f"set {setting} to one from 1024 on"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine; set CAROUSEL_HOST to one, such as 127.0.0.1"
    return f"port {port} of {host} cannot be opened: {error.strerror}"
