"""Requests that two readers read differently, and unusual ones that deserve an answer."""

import contextlib
import gc
import math
import socket
import subprocess
import threading
import time
from dataclasses import replace

import pytest

from service.connection_limits import ConnectionLimits
from service.http_protocol import HttpProtocol
from tests.attack.edge import GET, LAST, SHORT, edge, read_all, wait_until

BODY = b"POST /body HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture(scope="module")
def server():
    with edge() as running:
        yield running


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /now HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /now HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /now HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET /now HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /now\r\n\r\n", 505),  # HTTP/0.9
        (b"GET /now HTTP/1.2\r\nHost: a\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),  # HTTP/2 with prior knowledge
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
        (BODY + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (BODY + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (BODY + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
        (BODY + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
        (BODY + b"Content-Length: 5, 5\r\n\r\nhello", 400),
        (BODY + b"Content-Length: +5\r\n\r\nhello", 400),
        (BODY + b"Content-Length: 0x5\r\n\r\nhello", 400),
        (BODY + b"Content-Length: -5\r\n\r\nhello", 400),
        (BODY + b"Content-Length: 99999999999999999999999\r\n\r\nhello", 400),
        (BODY + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (BODY + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (BODY + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (BODY + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501),
        (BODY + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n", 400),
        (BODY + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        (BODY + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /body HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /now HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", 400),  # obs-fold
        (b"GET /now HTTP/1.1\nHost: a\n\n", 400),  # bare LF
        (b"GET /now HTTP/1.1\rHost: a\r\r", 400),  # bare CR
        (b"GET /now HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
        (b"GET /now HTTP/1.1\r\nHost: a\r\nA: b\x00c\r\n\r\n", 400),
        (b"GET /now HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET /now HTTP/1.1\r\n Host: a\r\n\r\n", 400),
        (b"GET /now HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (BODY + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\nhello\r\n0\r\n\r\n", 400),
        (BODY + b"Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", 400),
        (BODY + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 400),
        (BODY + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n", 400),
        (BODY + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX0\r\n\r\n", 400),
        (BODY + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nh", 400),
        (b"GET /now HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 17_000 + b"\r\n\r\n", 431),
        (b"GET /now HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 4_000 + b"\r\n", 431),
        (b"GET /now HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 256 + b"\r\n", 431),
        (BODY + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 257 + b"\r\n", 431),
        (b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (BODY + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 4_000 + b"\r\n", 431),
    ],
)
def test_what_is_ambiguous_is_refused_and_the_connection_ends(server, request_bytes, status):
    """A second request behind it is never served: a proxy may not have seen one."""
    before = len(server.paths)
    reply = server.exchange(request_bytes + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 %d " % status), reply[:200]
    assert reply.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close\r\n" in reply
    assert b'"error_type"' in reply
    assert "/smuggled" not in server.paths[before:]
    assert set(server.paths[before:]) <= {"/body"}  # started, and disconnected within its body


def test_a_head_of_256_fields_is_served(server):
    assert b"200 OK" in server.exchange(LAST[:-2] + b"A: b\r\n" * 254 + b"\r\n")


def test_a_refusal_waits_for_the_replies_before_it(server):
    reply = server.exchange(b"GET /later HTTP/1.1\r\nHost: a\r\n\r\nGET /now HTTP/1.1\r\n\r\n")
    assert [part[:3] for part in reply.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]
    assert reply.index(b"kk") < reply.index(b"HTTP/1.1 400")


def test_a_field_of_a_trailer_is_no_header(server):
    chunked = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nhi\r\n0\r\n"
    assert b"200 OK" in server.exchange(BODY + chunked + b"X-Forwarded-For: evil\r\n\r\n")
    assert server.bodies[-1] == b"hi"
    assert b"x-forwarded-for" not in dict(server.headers[-1])


# -- HTTP/2 offered

OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


@pytest.mark.parametrize("cut", [None, 3, 60, 90, 130, 170, 176])
def test_an_offered_upgrade_is_ignored_and_the_body_is_read(server, cut):
    whole = BODY + OFFER + b"Content-Length: 5\r\nX: y\r\n\r\nhello"
    pieces = [whole] if cut is None else [whole[:cut], whole[cut:]]
    with server.connect() as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.05)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")
        assert server.bodies[-1] == b"hello"
        names = [name for name, _ in server.headers[-1]]
        assert sorted(names) == [b"content-length", b"host", b"x"]
        connection.sendall(BODY + b"Content-Length: 2\r\n\r\nhi")  # the connection goes on
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")
        assert server.bodies[-1] == b"hi"


@pytest.mark.parametrize(
    "offer", [OFFER, b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"]
)
def test_an_offer_in_a_chunked_request_and_in_pipelined_ones(server, offer):
    chunked = BODY + offer + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    n = len(server.bodies)
    reply = server.exchange(chunked * 3 + b"GET /now HTTP/1.0\r\n\r\n")
    assert reply.count(b"200 OK") == 4
    assert server.bodies[n:] == [b"hello"] * 3


def test_curl_that_offers_http_2(server):
    url = f"http://127.0.0.1:{server.port}/body"
    command = ["curl", "-sS", "--http2", "-d", "hello", "-w", "%{http_code}", url]
    done = subprocess.run(command, capture_output=True, timeout=30, check=True)
    assert done.stdout == b"kk200"
    assert server.bodies[-1] == b"hello"


# -- a client that sends no more


@pytest.mark.parametrize("path", [b"/now", b"/later"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_client_that_closes_its_side_gets_its_reply(server, path, version):
    request = b"GET %b HTTP/%b\r\nHost: a\r\n\r\n" % (path, version)
    reply = server.exchange(request, is_half_closed=True)
    assert b"HTTP/1.1 200 OK" in reply
    assert reply.endswith(b"kk")
    assert reply.startswith(b"HTTP/1.1 200") or path == b"/later"  # a quick one needs no 100


def test_every_pipelined_request_of_it_is_answered(server):
    request = b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n" + GET * 400
    assert server.exchange(request, is_half_closed=True).count(b"200 OK") == 401


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("is_reset", [False, True])
def test_a_client_that_has_gone_is_noticed(server, version, is_reset):
    before = server.n_left
    connection = server.connect()
    connection.sendall(b"GET /wait HTTP/%b\r\nHost: a\r\n\r\n" % version)
    wait_until(lambda: server.n_running)
    if is_reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    wait_until(lambda: server.n_left == before + 1)
    wait_until(lambda: not server.n_running)


def test_a_client_that_goes_within_its_body_is_noticed(server):
    before = server.n_left
    connection = server.connect()
    connection.sendall(BODY + b"Content-Length: 5\r\n\r\nhel")
    wait_until(lambda: server.n_running)
    connection.close()
    wait_until(lambda: server.n_left == before + 1)


# -- pipelining


def test_ten_thousand_pipelined_requests_are_answered_in_turn(server):
    """At most as many as one piece holds are parsed before the first is answered."""
    with server.connect() as connection:
        before = len(server.paths)
        sender = threading.Thread(target=connection.sendall, args=(GET * 10_000 + LAST,))
        sender.start()
        n = read_all(connection).count(b"200 OK")
        sender.join()
    assert n == 10_001
    assert server.paths[before:] == ["/now"] * 10_001


def test_few_of_them_wait_while_one_is_answered():
    with edge(SHORT) as server, server.connect() as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" + GET * 10_000)
        wait_until(lambda: server.n_running)
        time.sleep(0.3)
        assert server.paths == ["/wait"]
        queued = [len(one.pipeline) for one in gc.get_objects() if type(one) is HttpProtocol]
        assert 0 < max(queued) <= 512 // len(GET) + 1  # they hold the loop for as long
        connection.close()
        wait_until(lambda: not server.n_running or server.n_left)


def test_a_long_queue_of_them_is_answered_at_a_pace():
    limits = replace(SHORT, free_ahead=5, ahead_pause_s=0.05, max_ahead_pause_s=0.05)
    with edge(limits) as server:
        began = time.monotonic()
        assert server.exchange(GET * 5 + LAST).count(b"200 OK") == 6
        free_s = time.monotonic() - began
        assert server.exchange(GET * 45 + LAST).count(b"200 OK") == 46
        assert time.monotonic() - began - free_s > 40 * 0.05
        with server.connect() as gone:
            gone.sendall(GET * 60)
            gone.recv(10)
        wait_until(lambda: not server.n_running)


def test_the_pause_before_each_of_them_doubles_so_few_are_answered():
    limits = replace(SHORT, free_ahead=1, ahead_pause_s=0.01, max_ahead_pause_s=60.0)
    with edge(limits) as server, server.connect() as connection:
        connection.sendall(GET * 10_000)
        began = time.monotonic()
        wait_until(lambda: len(server.paths) >= 6)
        n, passed_s = len(server.paths), time.monotonic() - began
        assert n < 2 + 1 + math.log2(1 + (passed_s + 0.01) / 0.01)
        for _ in range(20):  # those who wait for the reply are never held up
            assert server.exchange(LAST).count(b"200 OK") == 1
        assert len(server.paths) < 20 + 3 + math.log2(1 + (time.monotonic() - began + 0.01) / 0.01)


def test_a_pause_ends_with_the_queue():
    limits = replace(SHORT, free_ahead=1, ahead_pause_s=60.0, max_ahead_pause_s=60.0)
    with edge(limits) as server, server.connect() as connection:
        for _ in range(5):
            connection.sendall(GET * 2)
            replies = b""
            while replies.count(b"200 OK") < 2:
                replies += connection.recv(1 << 16)
    assert len(server.paths) == 10


@pytest.mark.parametrize(("n", "pause_s"), [(2, 0.02), (3, 0.04), (7, 0.64), (8, 1.0), (99, 1.0)])
def test_the_default_pauses(n, pause_s):
    assert ConnectionLimits().pause_ahead_s(n) == pytest.approx(pause_s)


def test_the_rest_of_a_body_that_was_answered_is_read_slowly():
    body, size, sent = b"," * 65_536, 64 * 1024 * 1024, 0
    head = b"POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
    limits = replace(SHORT, leftover_pause_s=60.0, leftover_timeout_s=3.0)
    with edge(limits) as server, server.connect() as connection:
        connection.sendall(head)
        assert b"200 OK" in connection.recv(1 << 16)
        connection.settimeout(1.0)
        with contextlib.suppress(OSError):
            while sent < size:
                sent += connection.send(body)
    assert sent < size // 2  # what the system keeps
    with edge(SHORT) as server, server.connect() as connection:
        connection.sendall(head.replace(b"%d" % size, b"2000000"))
        assert b"200 OK" in connection.recv(1 << 16)
        connection.sendall(b"," * 2_000_000 + LAST)
        assert read_all(connection).count(b"200 OK") == 1


def test_a_large_body_behind_a_running_request_arrives_whole(server):
    body = bytes(range(256)) * 4_000
    first = b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n"
    second = BODY + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert server.exchange(first, second, body).count(b"200 OK") == 2
    assert server.bodies[-1] == body
