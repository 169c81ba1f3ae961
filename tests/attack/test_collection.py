"""The collector of cycles does not stop the server: it has little to look at."""

import asyncio
import gc
import os
import re
import signal
import time
import weakref

import pytest

from service.garbage_collector import keep_aside
from service.http_protocol import HttpProtocol
from tests.api.conftest import new_home
from tests.attack.edge import GET, edge, is_closed, until, wait_until
from tests.process import serving

FROZEN = re.compile(r"^frozen (\d+) (\d+) (\d+)$", re.MULTILINE)
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


def test_what_a_start_and_a_model_make_is_not_looked_at_again(tmp_path):
    """A full collection of it takes 0.1 s, in which no request goes on."""
    numbers = "gc.get_freeze_count(), len(gc.get_objects()), gc.get_threshold()[2]"
    hook = "import gc, signal\nsignal.signal(signal.SIGUSR1, lambda *_: "
    hook += f"print('\\nfrozen', {numbers}, flush=True))\n"
    (tmp_path / "sitecustomize.py").write_text(hook)
    with serving(new_home(tmp_path), PYTHONPATH=str(tmp_path)) as server:

        def counts() -> tuple[int, int, int]:
            os.kill(server.process.pid, signal.SIGUSR1)
            time.sleep(0.1)
            printed = FROZEN.findall(server.log.read_text())
            frozen, others, rarely = map(int, (printed or [(0, 1, 0)])[-1])
            return frozen, others, rarely

        wait_until(lambda: counts()[0] > 20 * counts()[1])
        frozen, _, rarely = counts()
    assert frozen > 100_000
    assert rarely == 20


class Cycle:
    """It refers to itself: only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


async def test_what_has_left_with_a_model_is_freed_when_the_next_change_is_set_aside():
    models = ["a"]
    keeping = asyncio.create_task(keep_aside(lambda: tuple(models), poll_s=0.001, pause_s=0.0))
    await asyncio.sleep(0.01)
    thresholds, n_frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        model = Cycle()
        freed = weakref.ref(model)
        models.append("b")
        await until(lambda: gc.get_freeze_count() != n_frozen)
        del model
        gc.collect()
        assert freed() is not None  # it is set aside
        models.append("c")
        await until(lambda: freed() is None)
        assert gc.get_freeze_count() > n_frozen
    finally:
        keeping.cancel()
        gc.set_threshold(*thresholds)
        gc.unfreeze()
