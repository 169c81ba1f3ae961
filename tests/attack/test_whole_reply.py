"""A reply of the service's protocol has the bytes of uvicorn's, whole or in pieces."""

import contextlib
import socket
import threading
from functools import partial

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.connections import Connections
from service.http_protocol import HttpProtocol
from tests.attack.edge import PATIENCE_S, SHORT, read_all, wait_until

OURS = partial(HttpProtocol, SHORT, Connections(100, 100, ()))
SIZE = (b"content-length", b"4")


def start(status=200, *headers):
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content=b"text", *, more=False):
    return {"type": "http.response.body", "body": content, "more_body": more}


REPLIES = {
    "/whole": [start(200, SIZE, (b"X-Case", b"Is kept: \xe9")), body()],
    "/error": [start(422, SIZE), body()],
    "/empty": [start(200, (b"content-length", b"0")), body(b"")],
    "/nothing": [start(204, (b"content-length", b"0")), body(b"")],
    "/close": [start(200, SIZE, (b"connection", b"close")), body()],
    "/chunks": [start(200), body(b"tex", more=True), body(b"t")],
    "/pieces": [start(200, SIZE), body(b"tex", more=True), body(b"t")],
    "/large": [start(200, (b"content-length", b"100000")), body(b"x" * 100_000)],
    "/short": [start(200, SIZE), body(b"tex")],
    "/long": [start(200, SIZE), body(b"texts")],
    "/name": [start(200, SIZE, (b"x y", b"1")), body()],
    "/forged": [start(200, SIZE, (b"x", b"1\r\ny: 2")), body()],
}


HEAD_ONLY = [start(200, SIZE)]


async def app(scope, receive, send):  # noqa: ARG001 (no body is read)
    for message in REPLIES.get(scope["path"], HEAD_ONLY):
        await send(
            message | {"headers": list(message["headers"])} if "status" in message else message
        )


@contextlib.contextmanager
def serving(protocol):
    config = uvicorn.Config(
        app,
        port=0,
        http=protocol,
        ws="none",
        log_config=None,
        lifespan="off",
        date_header=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def ports():
    with serving(OURS) as ours, serving(HttpToolsProtocol) as theirs:
        yield ours, theirs


def reply(port, request):
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(request)
        return read_all(connection)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", REPLIES)
def test_a_reply_has_the_bytes_of_uvicorns(ports, method, path):
    once = f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"
    last = "GET /close HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    ours, theirs = (reply(port, (once + last).encode()) for port in ports)
    assert ours == theirs
    assert b"\r\ny: 2" not in ours


def test_a_head_without_its_body_is_an_error_and_no_empty_reply(ports):
    request = b"GET /head-only HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert reply(ports[0], request).startswith(b"HTTP/1.1 500 ")


def test_a_reply_in_http_1_0_ends_the_connection(ports):
    ours, theirs = (reply(port, b"GET /whole HTTP/1.0\r\nHost: a\r\n\r\n") for port in ports)
    assert ours == theirs
    assert ours.endswith(b"\r\n\r\ntext")
