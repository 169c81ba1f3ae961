"""What holds for the whole suite."""

import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.sessions.valkey import OwnValkey, own_store

LAST_WORDS_S = 10.0

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts a job in the background so, and the servers of the tests would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_store_outlives_its_server(tmp_path_factory) -> Iterator[None]:
    """Every server that any test has started, killed or not, has taken its Valkey along."""
    folder = str(tmp_path_factory.getbasetemp())
    yield
    until = time.monotonic() + LAST_WORDS_S
    while (left := stores_under(folder)) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


@pytest.fixture(scope="module")
def valkey_server(tmp_path_factory) -> Iterator[OwnValkey]:
    with own_store(tmp_path_factory.mktemp("valkey")) as own:
        yield own


@pytest.fixture
def valkey(valkey_server) -> OwnValkey:
    """An empty Valkey, which a test may kill and start again."""
    valkey_server.client.flushall()
    return valkey_server


def stores_under(folder: str) -> list[int]:
    """Processes of stores that work in a folder."""
    found = []
    for process in psutil.process_iter(["name", "cwd"]):
        cwd = process.info["cwd"] or ""
        is_store = process.info["name"] in {"valkey-server", "redis-server"}
        if is_store and cwd.startswith(folder) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found
