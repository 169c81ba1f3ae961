"""Streams whose server is killed, and started again on another port."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from carousel_client import Client
from tests.api.conftest import new_home
from tests.client.conftest import INPUTS, SEED
from tests.client.proxy import BreakingProxy
from tests.faults.store import OwnStore
from tests.process import Server, serving

N = 30_000


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A store that runs longer than each server."""
    store = OwnStore(tmp_path_factory.mktemp("store"), "valkey")
    store.start()
    yield {"CAROUSEL_REDIS_URL": f"redis://127.0.0.1:{store.port}"}
    store.close()


def kill(server: Server) -> None:
    server.process.kill()
    server.process.wait()


@pytest.mark.slow
def test_a_killed_server_only_delays_a_stream_and_a_whole_response(kind, settings, tmp_path):
    """Two turns are running, one streamed and one not."""
    home = new_home(tmp_path)
    how = {"max_new_tokens": N, "temperature": 0.8}
    with ThreadPoolExecutor() as pool:
        with serving(home, **settings) as first, Client(first.url) as client:
            proxy = BreakingProxy(first.port)
            streamed, whole = (client.sessions.create(seed=SEED).id for _ in range(2))
            calls = [
                pool.submit(kind.stream, proxy.url, session_id=streamed, timeout_s=60, **how),
                pool.submit(
                    kind.call,
                    proxy.url,
                    lambda to: to.generate(INPUTS, session_id=whole, **how),
                    timeout_s=60,
                ),
            ]
            while any(client.sessions.get(one).position < 500 for one in (streamed, whole)):
                assert not any(call.done() for call in calls)
            assert max(client.sessions.get(one).position for one in (streamed, whole)) < N
            kill(first)
        with serving(home, **settings) as second, Client(second.url) as client:
            proxy.target = second.port
            received, reply = (call.result() for call in calls)
            calm = client.sessions.create(seed=SEED).id
            truth = client.generate(INPUTS, session_id=calm, **how).text
            assert received.text == received.result.text == reply.text == truth
            positions = [int(token.event_id.split(".")[2]) for token in received.tokens]
            assert positions == list(range(len(INPUTS) + 1, len(INPUTS) + 1 + N))
            for session in (streamed, whole):
                state = client.sessions.get(session)
                assert (state.turn, state.position) == (1, len(INPUTS) + N)
                assert client.sessions.text(session) == INPUTS + truth
            events = f"GET /sessions/{streamed}/events"
            assert events in proxy.lines
            assert proxy.lines.count("POST /generate_stream") == 1
            assert proxy.lines.count("POST /generate") >= 2
        proxy.close()
