"""A server that is killed while its streams are read, and started again somewhere else."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.client import Client
from tests.api.conftest import new_home
from tests.client.conftest import INPUTS, SEED
from tests.client.cutter import Cutter
from tests.faults.store import OwnStore
from tests.process import Server, serving

N = 30_000


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A store that outlives every server."""
    store = OwnStore(tmp_path_factory.mktemp("store"), "valkey")
    store.start()
    yield {"CAROUSEL_REDIS_URL": f"redis://127.0.0.1:{store.port}"}
    store.close()


def kill(server: Server) -> None:
    server.process.kill()
    server.process.wait()


def test_a_killed_server_is_a_pause_in_a_stream_and_in_a_reply(kind, settings, tmp_path):
    """Two turns are under way, one that is streamed and one that is read whole."""
    home = new_home(tmp_path)
    how = {"max_new_tokens": N, "temperature": 0.8}
    with ThreadPoolExecutor() as pool:
        with serving(home, **settings) as first, Client(first.url) as client:
            cutter = Cutter(first.port)
            streamed, whole = (client.sessions.create(seed=SEED).id for _ in range(2))
            calls = [
                pool.submit(kind.stream, cutter.url, session_id=streamed, timeout_s=60, **how),
                pool.submit(
                    kind.call,
                    cutter.url,
                    lambda to: to.generate(INPUTS, session_id=whole, **how),
                    timeout_s=60,
                ),
            ]
            while any(client.sessions.get(one).position < 500 for one in (streamed, whole)):
                assert not any(call.done() for call in calls)
            assert max(client.sessions.get(one).position for one in (streamed, whole)) < N
            kill(first)
        with serving(home, **settings) as second, Client(second.url) as client:
            cutter.target = second.port
            said, reply = (call.result() for call in calls)
            calm = client.sessions.create(seed=SEED).id
            truth = client.generate(INPUTS, session_id=calm, **how).text
            assert said.text == said.end.text == reply.text == truth
            positions = [int(token.event_id.split(".")[2]) for token in said.tokens]
            assert positions == list(range(len(INPUTS) + 1, len(INPUTS) + 1 + N))
            for session in (streamed, whole):
                state = client.sessions.get(session)
                assert (state.turn, state.position) == (1, len(INPUTS) + N)
                assert client.sessions.text(session) == INPUTS + truth
            events = f"GET /sessions/{streamed}/events"
            assert events in cutter.lines
            assert cutter.lines.count("POST /generate_stream") == 1
            assert cutter.lines.count("POST /generate") >= 2
        cutter.close()
