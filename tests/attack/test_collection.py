"""The collector of cycles does not stop the server: it has little to look at."""

import gc
import os
import signal

import pytest

from service.http_protocol import HttpProtocol
from tests.api.conftest import new_home
from tests.attack.edge import GET, edge, is_closed, wait_until
from tests.process import serving

WAIT = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"


def n_protocols() -> int:
    return sum(type(one) is HttpProtocol for one in gc.get_objects())


@pytest.mark.parametrize("sent", [b"", b"GET", GET, GET * 50, WAIT, WAIT + GET * 50])
@pytest.mark.parametrize("is_left", [True, False])
def test_a_closed_connection_is_freed_without_the_collector(sent, is_left):
    """Thousands that come and go would be cycles, which a collection of everything finds late."""
    with edge() as server:
        gc.collect()
        gc.disable()
        try:
            before = n_protocols()
            for _ in range(5):
                with server.connect() as connection:
                    connection.sendall(sent)
                    if WAIT in sent:
                        wait_until(lambda: server.n_running)
                    elif not is_left:
                        assert is_closed(connection)
            wait_until(lambda: not server.n_running)
            wait_until(lambda: n_protocols() == before)
        finally:
            gc.enable()


def test_what_a_start_makes_is_not_looked_at_again(tmp_path):
    """A full collection of it takes 0.1 s, in which no request goes on."""
    hook = "import gc, signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('frozen', "
    hook += "gc.get_freeze_count(), 'of', len(gc.get_objects()), flush=True))\n"
    (tmp_path / "sitecustomize.py").write_text(hook)
    with serving(new_home(tmp_path), PYTHONPATH=str(tmp_path)) as server:
        os.kill(server.process.pid, signal.SIGUSR1)
        wait_until(lambda: "frozen" in server.log.read_text())
        line = next(one for one in server.log.read_text().splitlines() if "frozen" in one)
    _, frozen, _, others = line.split()
    assert int(frozen) > 100_000
    assert int(others) < int(frozen) // 4
