"""A machine's node of a fleet: Ray's processes, with the flags that a fleet needs."""

import contextlib
import os
import shlex
import socket
import sys
import tempfile
from pathlib import Path

from service.cgroup import machine_share
from service.errors import BadRequest
from service.ray.environment import (
    check_head,
    check_ray,
    fleet_environment,
    fleet_settings,
    head_login,
)
from service.ray.fleet_file import FleetFile
from service.ray.ingress import find_haproxy

OBJECT_STORE_BYTES = 100_000_000
"""Nothing of ours enters Ray's object store, which takes a third of the memory otherwise."""


def prepare(file: FleetFile) -> None:
    """Set this process's environment as the fleet's processes have it, before Ray is imported.

    Raises BadRequest where something is missing.
    """
    check_ray()
    os.environ.update(fleet_environment(file, _write_launcher(fleet_settings(file).data_dir)))


def run_node(
    file: FleetFile, *, is_head: bool, address: str | None, cores: int | None, scratch: Path | None
) -> None:
    """Become this machine's node, in the foreground, until SIGTERM. Raises BadRequest."""
    prepare(file)
    if find_haproxy() is None:
        raise BadRequest(
            "HAProxy is not installed; it comes with Ray's wheels, or: apt install haproxy"
        )
    url = fleet_settings(file).redis_url
    assert url is not None
    host, _, port = file.head.rpartition(":")
    options = ["--block", "--disable-usage-stats", f"--object-store-memory={OBJECT_STORE_BYTES}"]
    options.append(f"--num-cpus={cores or machine_share().cores}")
    if is_head:
        options += ["--head", f"--port={port}", f"--node-ip-address={address or host}"]
        options += ["--include-dashboard=false", *head_login(url.get_secret_value())]
        folder = scratch or Path(tempfile.gettempdir()) / f"ray-{file.name}"
        options.append(f"--temp-dir={folder}")
        _forget_dead_head(folder, address or host, int(port))
    else:  # a head has no other node to leave its part to
        drain_s = file.shutdown_s(fleet_settings(file))
        os.environ.setdefault("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", f"{drain_s:g}")
        check_head(file)
        options.append(f"--address={file.head}")
        options += [f"--node-ip-address={address}"] if address else []
    program = [sys.executable, "-m", "ray.scripts.scripts", "start", *options]
    os.execv(sys.executable, program)  # noqa: S606 (this process becomes the node)


def _forget_dead_head(folder: Path, host: str, port: int) -> None:
    """Have Ray not take what a killed head has left for a head that runs. Raises BadRequest.

    It looks for a file, and for processes that were told the address: other nodes, and its own
    agents that outlive it for a while.
    """
    with contextlib.suppress(OSError), socket.create_connection((host, port), 2.0):
        raise BadRequest(f"something listens at {host}:{port} already; is it the fleet's head?")
    (folder / "ray_current_cluster").unlink(missing_ok=True)


def _write_launcher(folder: Path) -> Path:
    """Write the program that Ray starts in the place of HAProxy."""
    path = (folder / "ray" / f"haproxy-{socket.gethostname()}").absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m service.ray.ingress "$@"\n'
    if not path.exists() or path.read_text() != text:
        incoming = path.with_name(f"{path.name}.{os.getpid()}")
        incoming.write_text(text)
        incoming.chmod(0o755)
        incoming.replace(path)
    return path
