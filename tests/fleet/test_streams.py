"""Streams of sessions while processes are killed and replaced, and the store is killed.

Each is compared with the text that one other server gives for the same seed and prompt.
"""

import concurrent.futures
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.api.conftest import new_home
from tests.fleet.house import SERVICE_MANAGER, House, a_house, until
from tests.fleet.resumed import Conversation, new_session
from tests.process import Server, serving

pytestmark = pytest.mark.slow

SEEDS = 4
SERVICE = ("bash", "-c", SERVICE_MANAGER, "service-manager")
LOADS = [
    pytest.param(2, 8, 4_000),  # processes, streams, characters of a turn
    pytest.param(1, 64, 4_000, marks=pytest.mark.soak),
    pytest.param(2, 64, 4_000, marks=pytest.mark.soak),
    pytest.param(4, 64, 4_000, marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
]


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Iterator[Server]:
    """One server that nothing happens to."""
    with serving(new_home(tmp_path_factory.mktemp("other"))) as server:
        yield server


@contextlib.contextmanager
def house_for(folder, n: int, *, is_restarted: bool) -> Iterator[House]:
    """A server; a single process has a service manager where it is to be restarted."""
    command = SERVICE if n == 1 and is_restarted else ()
    with a_house(folder, n, command, CAROUSEL_THREADS="1", CAROUSEL_DRAIN_S="1") as house:
        yield house


def talk(house: House, n_streams: int, n: int, happens: Callable[[], None]) -> list[Conversation]:
    """Conversations that go on until what happens is over."""
    over: list[bool] = []
    found = [
        Conversation(house.server, new_session(house.server, i % SEEDS), n)
        for i in range(n_streams)
    ]
    with concurrent.futures.ThreadPoolExecutor(n_streams) as pool:
        running = [pool.submit(one.run, lambda: bool(over)) for one in found]
        try:
            until(lambda: all(house.position(one.session) > 100 for one in found), 120)
            happens()
        finally:
            over.append(True)
        for one in running:
            one.result(300)
    return found


def check(other: Server, found: list[Conversation]) -> None:
    """Compare every token, its position and its logprob, in every turn."""
    for seed in range(SEEDS):
        alike = found[seed::SEEDS]
        longest = max(len(one.turns) for one in alike)
        truth = Conversation(other, new_session(other, seed), alike[0].n)
        truth.run(lambda truth=truth, longest=longest: len(truth.turns) >= longest)
        assert truth.n_breaks == 0
        expected = truth.tokens
        for one in alike:
            assert one.tokens == expected[: one.n * len(one.turns)]
            assert [token[0] for token in one.tokens] == sorted({t[0] for t in one.tokens})


@pytest.mark.parametrize(("n", "n_streams", "n_characters"), LOADS)
def test_no_kill_loses_or_doubles_a_character(tmp_path, other, n, n_streams, n_characters):
    """Every process is killed once, and the store once."""
    with house_for(tmp_path, n, is_restarted=True) as house:

        def happens() -> None:
            for name, pid in house.serving().items():
                os.kill(pid, signal.SIGKILL)
                until(lambda name=name: name not in (now := house.serving()) and len(now) == n, 120)
            store = house.store()
            assert store is not None
            store.kill()
            until(lambda: (now := house.store()) is not None and now.pid != store.pid)
            until(lambda: len(house.serving()) == n, 120)

        found = talk(house, n_streams, n_characters, happens)
        assert sum(one.n_breaks for one in found) > 0
        check(other, found)


@pytest.mark.parametrize(("n", "n_streams", "n_characters"), LOADS[:1] + LOADS[2:])
def test_a_rolling_restart_loses_and_doubles_no_character(
    tmp_path, other, n, n_streams, n_characters
):
    """Nor is a request refused that comes while processes are replaced."""
    with house_for(tmp_path, n, is_restarted=False) as house:
        before, statuses = set(house.serving()), []

        def ask() -> int:
            body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
            with house.client() as http:
                return http.post("/generate", json=body).status_code

        def happens() -> None:
            house.server.process.send_signal(signal.SIGHUP)
            end = time.monotonic() + 300
            while (now := set(house.serving())) & before or len(now) < n:
                statuses.append(ask())
                assert time.monotonic() < end, now

        found = talk(house, n_streams, n_characters, happens)
        assert set(statuses) == {200}
        check(other, found)
        assert house.names() == set(house.serving())
