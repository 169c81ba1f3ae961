"""No connection is held for ever, and connections that wait make room for others."""

import contextlib
import logging
import socket
import time
from dataclasses import replace

import httpx2
import pytest

from service.connection_limits import ConnectionLimits, WriteWatch
from service.connections import Connections
from service.settings import Settings
from service.start_checks import listen
from tests.api.conftest import new_home
from tests.attack.edge import GET, PATIENCE_S, SHORT, edge, is_closed, read_all, wait_until
from tests.process import serving

POST = b"POST %b HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "more", "drip"),
    [
        (b"", b"", b""),  # nothing
        (b"GET /now HTTP/1.1\r\nHost:", b"", b"a"),  # a head without end
        (GET, b"", b""),  # silence after a reply
        (GET, b"\r\n", b""),  # an empty line after it, which begins no head
        (GET, b"", b"\r\n"),
        (GET, b"GET", b""),  # a second head without end
        (POST % b"/now" + b"Content-Length: 9999\r\n\r\n", b"", b"x"),  # a body already answered
        (b"GET /now HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n", b"", b"x"),
        (POST % b"/now" + b"Transfer-Encoding: chunked\r\n\r\n5;a", b"", b"b"),
        (POST % b"/now" + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: ", b"", b"b"),
        (b"GET /now HTTP/1.0\r\n\r\n", b"", b"x"),
    ],
)
def test_a_connection_is_closed_whatever_drips_in(request_bytes, more, drip):
    with edge() as server, server.connect() as connection:
        connection.sendall(request_bytes + more)
        assert is_closed(connection, drip)


@pytest.mark.parametrize("path", [b"/large", b"/now"])
def test_a_client_that_never_reads_is_cut_off(path):
    get = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path
    with edge() as server, server.connect() as connection:
        connection.sendall(get)
        wait_until(lambda: server.paths and not server.n_running)
        assert has_ended(connection)


def has_ended(connection: socket.socket) -> bool:
    """Whether the server ends a connection of which nothing is read."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        time.sleep(0.1)
        error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if error or state != 1:  # TCP_ESTABLISHED
            return True
    return False


def test_the_system_keeps_little_for_a_client_that_never_reads():
    """It would keep megabytes: tens of thousands of events that the engine has to compute."""
    (listener,) = listen("127.0.0.1", 0)
    with listener, socket.create_connection(listener.getsockname()) as client:
        connection, _ = listener.accept()
        with connection:
            connection.setblocking(False)
            n_bytes = 0
            for _ in range(20):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        n_bytes += connection.send(bytes(1_600))
                time.sleep(0.02)
            assert 65_536 < n_bytes < 1_000_000
        assert client.recv(1) == b"\0"


def test_an_unread_stream_of_a_million_characters_stands_still(tmp_path):
    body = b'{"inputs": "The ", "parameters": {"max_new_tokens": 1000000}}'
    head = b"POST /generate_stream HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with serving(new_home(tmp_path)) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head + body)
            wait_until(lambda: n_generated(server.url))
            counts = [0, 1]
            while counts[-1] != counts[-2]:
                time.sleep(1)
                counts.append(n_generated(server.url))
        assert counts[-1] < 20_000  # 1,024 in the stream, the others as events in buffers


def n_generated(url: str) -> int:
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    return sum(
        int(float(line.split()[-1]))
        for line in lines
        if line.startswith("carousel_generated_tokens_total{")
    )


def test_a_client_that_reads_slowly_gets_the_whole_reply():
    limits = replace(SHORT, write_timeout_s=1.0, write_bytes=1)  # of a busy machine
    with edge(limits) as server, server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        n, until = 0, time.monotonic() + 5 * limits.write_timeout_s
        while piece := connection.recv(8_192):
            n += len(piece)
            if time.monotonic() < until:
                time.sleep(0.02)  # 400 KB/s: the system may be silent for seconds
        assert n > 50_000_000


def test_a_client_that_reads_less_than_it_has_to_is_cut_off():
    limits = replace(SHORT, write_timeout_s=1.0, write_bytes=10_000_000)
    with edge(limits) as server, server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            read_for(connection, PATIENCE_S)


def read_for(connection: socket.socket, limit_s: float) -> None:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        connection.recv(8_192)
        time.sleep(0.02)


def test_a_client_that_reads_slowly_is_cut_off_when_the_reply_has_waited_its_time():
    limits = replace(SHORT, write_timeout_s=PATIENCE_S, slow_reader_timeout_s=1.0)
    with edge(limits) as server, server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        n = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(8_192):
                n += len(piece)
                time.sleep(0.002)  # less than 4 MB/s
        assert n < 50_000_000


def test_each_reply_of_a_connection_has_the_whole_time():
    limits = replace(LONG, write_timeout_s=PATIENCE_S, slow_reader_timeout_s=6.0)
    with edge(limits) as server, server.connect() as connection:
        for _ in range(2):
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
            time.sleep(3.5)
            n = 0
            while n < 50_000_000:
                piece = connection.recv(1 << 20)
                assert piece
                n += len(piece)


class Waits:
    """A loop whose time passes when it is told, and the one timer in it."""

    def __init__(self) -> None:
        self.now_s, self.due_s, self.call = 100.0, 0.0, None

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s, callback, *given):
        self.due_s, self.call = self.now_s + delay_s, lambda: callback(*given)
        return self

    def cancel(self) -> None:
        self.call = None

    def pass_s(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.call is not None and self.due_s <= until_s:
            self.now_s, call, self.call = self.due_s, self.call, None
            call()
        self.now_s = until_s


class Unread:
    """A transport with a socket, and bytes that its client does not read."""

    def __init__(self, own: socket.socket) -> None:
        self.own, self.n_bytes, self.is_cut = own, 50_000, False

    def get_write_buffer_size(self) -> int:
        return self.n_bytes

    def get_extra_info(self, _: str) -> socket.socket:
        return self.own

    def abort(self) -> None:
        self.is_cut = True


def test_the_waits_of_one_reply_are_added_and_the_next_reply_begins_anew():
    loop, limits = Waits(), ConnectionLimits(write_timeout_s=15.0, slow_reader_timeout_s=100.0)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as own:
        own.connect(listener.getsockname())
        watch, transport = WriteWatch(loop, limits), Unread(own)
        watch.begin_reply()

        def wait_s(seconds: int) -> None:
            watch.start(transport)
            for _ in range(seconds):
                transport.n_bytes -= 2_000  # a second: more than write_bytes asks for
                loop.pass_s(1.0)
            transport.n_bytes += 2_000 * seconds
            watch.stop()

        wait_s(20)
        loop.pass_s(1_000.0)  # in which nothing waits for the client
        wait_s(20)
        wait_s(20)
        wait_s(20)
        assert not transport.is_cut
        watch.begin_reply()
        for _ in range(4):
            wait_s(20)
        assert not transport.is_cut
        wait_s(21)
        assert transport.is_cut


def test_a_running_request_outlives_every_time_limit():
    with edge() as server, server.connect() as connection:
        connection.sendall(b"GET /later HTTP/1.1\r\nHost: a\r\n\r\nGET /now HTTP/1.1\r\nHost:")
        time.sleep(2 * SHORT.head_timeout_s)  # a second head drips meanwhile
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


# -- room for others


def test_waiting_connections_make_room_and_the_log_says_so(caplog):
    with caplog.at_level(logging.WARNING), edge(most=20, limits=LONG) as server:
        held = [server.connect() for _ in range(60)]
        for _ in range(3):
            assert b"200 OK" in server.exchange(
                GET.replace(b"1.1\r\n", b"1.1\r\nConnection: close\r\n")
            )
        for connection in held:
            connection.close()
    assert any("20 connections are open, which is the limit" in one for one in caplog.messages)
    assert sum("is the limit" in one for one in caplog.messages) == 1


LONG = type(SHORT)(head_timeout_s=PATIENCE_S, idle_timeout_s=PATIENCE_S)
WAIT = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"


def test_a_connection_too_many_gets_a_503_without_being_read():
    with edge(most=5, limits=LONG) as server:
        held = [server.connect() for _ in range(5)]
        for connection in held:
            connection.sendall(WAIT)
        wait_until(lambda: server.n_running == 5)
        with server.connect() as one_more:
            reply = read_all(one_more)  # nothing was sent
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1\r\n" in reply
        assert b'"error_type": "overloaded"' in reply
        assert server.n_running == 5
        held.pop().close()
        wait_until(lambda: server.n_running == 4)
        assert b"200 OK" in server.exchange(b"GET /now HTTP/1.0\r\n\r\n")
        for connection in held:
            connection.close()


class Line:
    """A connection as the count sees it."""

    has_gone = False

    def give_way(self) -> None:
        self.has_gone = True


def test_an_address_has_a_limit_of_its_own_and_a_trusted_proxy_none():
    proxies = Settings(trusted_proxies="10.0.0.0/8, ::1").proxy_networks
    connections = Connections(10, 2, proxies)
    mine = [Line() for _ in range(3)]
    assert [connections.admit(line, "192.0.2.1") for line in mine] == [None] * 3
    assert [line.has_gone for line in mine] == [True, False, False]
    for line in mine[1:]:
        connections.work(line)
    assert "2 connections of 192.0.2.1 are open" in (connections.admit(Line(), "192.0.2.1") or "")
    assert connections.admit(Line(), "192.0.2.2") is None
    for _ in range(4):
        assert connections.admit(Line(), "10.1.2.3") is None
        assert connections.admit(Line(), "::1") is None
    assert connections.n_open == 10


def test_the_count_returns_to_nothing():
    connections, lines = Connections(3, 3), [Line() for _ in range(9)]
    for line in lines:
        connections.admit(line, "a")
        connections.work(line)
    for line in lines:
        connections.leave(line)
    assert connections.n_open == 0
    assert connections.can_refuse
    assert connections._by_address == {}
    assert connections._n_ending == 0


def test_300_held_connections_with_256_file_handles_leave_others_served(tmp_path):
    command = ("prlimit", "--nofile=256:256")
    with serving(new_home(tmp_path), command=command) as server, contextlib.ExitStack() as held:
        for _ in range(300):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
            held.enter_context(connection)
            with contextlib.suppress(OSError):
                connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        body = {"inputs": "The ", "parameters": {"max_new_tokens": 5}}
        for _ in range(5):
            assert httpx2.post(f"{server.url}/generate", json=body, timeout=60).status_code == 200
        log = server.log.read_text()
    assert "this process may open 256 files, so it serves 128 connections" in log
    assert "128 connections are open, which is the limit" in log
