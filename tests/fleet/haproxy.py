"""HAProxy with the file of this repository, before servers of a test."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.process import ROOT, Server, free_port

BINARY = shutil.which("haproxy") or (
    "/usr/sbin/haproxy" if Path("/usr/sbin/haproxy").exists() else None
)
CONFIG = ROOT / "docker" / "haproxy" / "haproxy.cfg"


def config_for(servers: Sequence[Server]) -> str:
    """The file, with lines of addresses in place of the lines of names."""
    text = CONFIG.read_text().replace(" resolvers docker init-addr none", "")
    kept = [line for line in text.splitlines() if "server-template" not in line]
    kept += [f"    server s{i} 127.0.0.1:{one.port}" for i, one in enumerate(servers)]
    without_names = re.sub(r"resolvers docker\n(    .*\n)+", "", "\n".join(kept) + "\n")
    assert without_names.count("\n    server s") == len(servers)
    return without_names


@contextlib.contextmanager
def haproxy(folder: Path, servers: Sequence[Server]) -> Iterator[Server]:
    """A running HAProxy; as a server it is where the tests connect to."""
    assert BINARY is not None
    port, file, log = free_port(), folder / "haproxy.cfg", folder / "haproxy.log"
    file.write_text(config_for(servers))
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [BINARY, "-db", "-f", str(file)],
            env={**os.environ, "LISTEN": f"127.0.0.1:{port}"},
            stdout=out,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            _wait(port, process)
            yield Server(port, process, log)
        finally:
            process.terminate()
            process.wait(20)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("HAProxy did not start")
