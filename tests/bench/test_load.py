"""The closed loop measures what a server sent, and refuses a reply that is not whole."""

import contextlib
import socketserver
import threading
import time

import pytest

from bench.load import ClientGroup, Connection, Request, closed_loop
from tests.bench.test_reply import chunked

EVENTS = 5
STREAM = b"data: {}\n\n" * EVENTS
PIECES = chunked(*(STREAM[i : i + 3] for i in range(0, len(STREAM), 3)))


@contextlib.contextmanager
def answering(*replies: bytes, read_size: int = 7, requests: int = 1_000_000):
    """A server whose reply comes in pieces of a few bytes; the last one is repeated.

    It closes a connection after so many requests.
    """

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            waiting = list(replies)
            for _ in range(requests):
                if not self.request.recv(1 << 16):
                    return
                reply = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                with contextlib.suppress(OSError):
                    for i in range(0, len(reply), read_size):
                        self.request.sendall(reply[i : i + read_size])
                        time.sleep(0.0002)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, block_on_close = True, False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def loop(port, events=EVENTS, clients=3):
    request = Request("/", {"seed": 1}, EVENTS, events)
    return closed_loop(port, [request] * clients, warm_up_s=0.05, measure_s=0.3)


def test_a_proxy_that_sets_its_own_borders_loses_no_event():
    with answering(PIECES) as port:
        load = loop(port)
    assert load.clients == 3
    assert load.requests_per_s > 0
    assert load.characters_per_s == pytest.approx(EVENTS * load.requests_per_s, rel=0.5)
    assert load.first_event_p50_ms <= load.reply_p50_ms
    assert load.client_cpu_us > 0


def test_a_whole_reply_has_no_events():
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as port:
        load = loop(port, events=0)
    assert load.characters_per_s == pytest.approx(EVENTS * load.requests_per_s)
    assert load.first_event_p50_ms is load.delivery_gap_p99_ms is None


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (chunked(STREAM[10:]), "status 200, 4 events of 5"),
        (b"HTTP/1.1 429 No\r\nContent-Length: 4\r\n\r\nslow", "status 429, 0 events of 5: b'slow'"),
    ],
)
def test_a_reply_that_is_not_whole_is_an_error(reply, sentence):
    with answering(PIECES, reply) as port, pytest.raises(ValueError, match=sentence):
        loop(port)


@pytest.mark.parametrize("requests", [1, 2])
def test_a_connection_that_ends_between_two_replies_is_opened_again(requests):
    with answering(PIECES, requests=requests) as port:
        load = loop(port)
    assert load.requests_per_s > 5


@pytest.mark.parametrize("reply", [b"", PIECES[:40], PIECES[:-1]])
def test_a_connection_that_ends_within_a_reply_is_an_error(reply):
    with (
        answering(reply, requests=1) as port,
        pytest.raises(ConnectionError, match="before the re"),
    ):
        loop(port)


def test_a_group_of_clients_does_its_work_again_on_the_same_connections():
    requests = [Request("/", {"seed": 1}, EVENTS, EVENTS)] * 3
    with answering(PIECES) as port, ClientGroup(port, requests) as group:
        works = [group.work(4) for _ in range(2)]
    for work in works:
        assert work.characters == 3 * 4 * EVENTS
        assert work.wall_s > 0
        assert work.server_cpu_s > 0


def test_a_key_is_sent():
    heard = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            heard.append(self.request.recv(1 << 16))
            self.request.sendall(PIECES)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        request = Request("/", {}, EVENTS, EVENTS, "secret")
        with Connection(server.server_address[1], request) as one:
            one.first_event_s()
        thread.join()
    assert b"\r\nAuthorization: Bearer secret\r\n" in heard[0]
