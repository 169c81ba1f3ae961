"""The metrics' own listener answers one request, and shares the server's life."""

import asyncio
import contextlib
import socket
import urllib.error
import urllib.request

import pytest

from service.api.metrics_listener import MAX_HEAD_BYTES, MetricsListener, bind
from service.errors import BadRequest
from tests.process import ended, free_port


@contextlib.asynccontextmanager
async def listening(host: str = "127.0.0.1"):
    async def scrape() -> bytes:
        return b"carousel_x 1\n"

    bound = bind(host, free_port())
    assert bound is not None
    async with MetricsListener(bound, scrape) as listener:
        yield listener


async def answer(listener: MetricsListener, head: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(head)
    reply = await reader.read()
    writer.close()
    await writer.wait_closed()
    return reply


async def test_it_has_the_metrics():
    async with listening() as listener:
        reply = await answer(listener, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head
    assert body == b"carousel_x 1\n"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /metrics?x=1 HTTP/1.0", b"200"),
        (b"GET / HTTP/1.1", b"404"),
        (b"GET /admin/models HTTP/1.1", b"404"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"HEAD /metrics HTTP/1.1", b"405"),
        (b"GET /metrics", b"400"),
        (b"\x16\x03\x01", b"400"),
    ],
)
async def test_it_has_nothing_else(line, status):
    async with listening() as listener:
        reply = await answer(listener, line + b"\r\n\r\n")
    assert reply.split(b" ")[1] == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"evil.example", b"421"),
        (b"evil.example:9100", b"421"),
        (b"127.0.0.1.evil.example", b"421"),
        (b"localhost:9100", b"200"),
        (b"127.0.0.1:9100", b"200"),
        (b"[::1]:9100", b"200"),
    ],
)
async def test_a_page_that_points_its_name_here_reads_nothing(host, status):
    async with listening() as listener:
        reply = await answer(listener, b"GET /metrics HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert reply.split(b" ")[1] == status


async def test_on_another_address_any_host_is_right():
    async with listening("0.0.0.0") as listener:
        reply = await answer(listener, b"GET /metrics HTTP/1.1\r\nHost: api:9100\r\n\r\n")
    assert reply.split(b" ")[1] == b"200"


async def test_a_head_without_end_is_cut_off():
    async with listening() as listener:
        with contextlib.suppress(ConnectionResetError):
            assert await answer(listener, b"GET /" + b"x" * 3 * MAX_HEAD_BYTES) == b""


def test_port_0_is_no_listener():
    assert bind("127.0.0.1", 0) is None


def test_a_port_that_is_taken_stops_the_start_with_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadRequest, match=f"at 127.0.0.1:{port}: .*CAROUSEL_METRICS_PORT"):
            bind("127.0.0.1", port)
        done = ended(tmp_path, CAROUSEL_METRICS_PORT=str(port))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"carousel: the metrics cannot be served at 127.0.0.1:{port}")


@pytest.mark.usefixtures("server")
def test_it_is_there_as_long_as_the_server(metrics_port):
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as reply:
        assert reply.status == 200
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/generate")
    assert error.value.code == 404
    error.value.close()
