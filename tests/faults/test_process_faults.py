"""Sessions and streams while the server is killed or stopped."""

import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.faults.client import tokens_of
from tests.faults.conftest import FIRST, Place, a_server, until
from tests.faults.store import OwnStore

pytestmark = pytest.mark.slow  # servers are killed and started


def kill(place: Place) -> None:
    place.server.process.kill()
    place.server.process.wait()


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A store that runs longer than every server."""
    store = OwnStore(tmp_path_factory.mktemp("store"), "valkey")
    store.start()
    yield {"CAROUSEL_REDIS_URL": f"redis://127.0.0.1:{store.port}"}
    store.close()


def test_streams_of_a_killed_server_continue_without_a_gap(home, settings, truth):
    """The server is killed twice: before the first event of some, after many of others, and so on.

    What a client was sent before, in between and afterwards is what one stream would have said.
    """
    taken = [0, 1, 40, 700]
    n = 12_000
    with a_server(home, **settings) as first:
        quiet, over = first.session(), first.session()
        assert first.ask(quiet, 300).status_code == 200
        ended = first.turn(over, 300)
        ended.rest()
        sessions = [first.session() for _ in taken]
        streams = [first.turn(session, n, key="once") for session in sessions]
        for stream, k in zip(streams, taken, strict=True):
            stream.take(k)
        kill(first)
        before = [list(stream.events) for stream in streams]

    with a_server(home, **settings) as second:
        assert second.follow(over, ended.last_id).status == 204
        again = second.follow(over, None)
        again.rest()
        assert again.events == ended.events
        on = second.turn(quiet, 300, "")
        on.rest()
        assert tokens_of(on) == truth[300:600]
        follows = []
        for session, stream in zip(sessions, streams, strict=True):
            if stream.last_id is None:  # perhaps it had not begun
                follows.append(second.turn(session, n, key="once"))
            else:
                follows.append(second.follow(session, stream.last_id))
        for follow in follows:
            follow.take(400)
        kill(second)
        between = [list(follow.events) for follow in follows]

    with a_server(home, **settings) as third:
        for i, session in enumerate(sessions):
            assert len(between[i]) == 400
            last = third.follow(session, between[i][-1].id)
            last.rest()
            assert tokens_of(before[i], between[i], last) == truth[:n]
            assert last.events[-1].data["details"]["finish_reason"] == "length"
            assert third.position(session) == FIRST + n


def test_an_interrupted_turn_without_a_reader_is_ended_by_the_next(home, settings, truth):
    """After a crash a new turn continues from the committed tokens of the last one."""
    with a_server(home, **settings) as first:
        session = first.session()
        stream = first.turn(session, 20_000)
        stream.take(500)
        kill(first)
    with a_server(home, **settings) as second:
        until(
            lambda: second.ask(session, 1, "").status_code == 200
        )  # its heartbeat expires after 3 s
        position = second.position(session) - FIRST
        assert position > len(tokens_of(stream))
        on = second.turn(session, 300, "")
        on.rest()
        assert tokens_of(on) == truth[position : position + 300]


def test_a_stop_reports_to_every_stream_where_to_resume(home, settings, truth):
    """Eight turns are short, one is endless, one has a stalled reader; one connection is idle."""
    n, n_short = 45_000, 3_000
    with a_server(home, **settings) as first:
        sleepy, endless, *short = (first.session() for _ in range(10))
        asleep = first.turn(sleepy, n, receive_bytes=4_096)
        long = first.turn(endless, 1_000_000)
        awake = [first.turn(session, n_short) for session in short]
        for stream in (asleep, long, *awake):
            stream.take(10)
        assert first.http.get("/health/live").status_code == 200  # a connection that stays open
        began_s = time.monotonic()
        first.server.process.send_signal(signal.SIGTERM)
        until(lambda: not first.is_ready)
        refused = first.ask(short[0], 9, "")
        assert (refused.status_code, refused.json()["error_type"]) == (503, "draining")
        for stream in awake:
            stream.rest()
            assert tokens_of(stream) == truth[:n_short]
        long.skip()
        assert long.error["error_type"] == "draining"
        assert long.error["resume"] == long.last_id
        until(lambda: first.server.process.poll() is not None, 20)
        assert first.server.process.returncode == 0
        assert time.monotonic() - began_s < 12 + 3  # tolerance for a slow machine
        asleep.rest()  # what the socket has buffered for it
        before = list(asleep.events)

    with a_server(home, **settings) as second:
        more = second.follow(sleepy, asleep.last_id)
        more.rest()
        assert tokens_of(before, more) == truth[:n]
        resumed = second.follow(endless, long.last_id)
        last = long.events[-2].position
        assert [event.position for event in resumed.take(99)] == list(range(last + 1, last + 100))
        assert second.http.delete(f"/sessions/{endless}").status_code == 204


def children(place: Place) -> list[psutil.Process]:
    return psutil.Process(place.server.process.pid).children(recursive=True)


def test_the_private_store_outlives_its_own_crash_and_never_its_server(home, truth):
    with a_server(home) as first:
        session = first.session()
        stream = first.turn(session, 20_000)
        stream.take(500)
        [valkey] = children(first)
        valkey.kill()
        stream.rest()
        assert tokens_of(stream) == truth[:20_000]
        [valkey] = children(first)
        kill(first)
        psutil.wait_procs([valkey], 10)
        assert not valkey.is_running()
    with a_server(home) as second:
        assert second.position(session) == FIRST + 20_000
        on = second.turn(session, 300, "")
        on.rest()
        assert tokens_of(on) == truth[20_000:20_300]
        [valkey] = children(second)
        second.server.process.send_signal(signal.SIGTERM)
        until(lambda: second.server.process.poll() is not None, 20)
        assert not valkey.is_running()
