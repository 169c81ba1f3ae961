"""Streams whose client disconnects, or whose server stops."""

import json
import random
import signal
import socket
import threading
import time

import httpx2
import psutil
import pytest

from service.models.cell import Activation, LayerSpec
from service.models.spec import ModelSpec
from tests.api.conftest import new_home
from tests.bundles import put_model
from tests.process import Server, serving

ENDLESS = 1_000_000


def open_stream(server: Server, n: int = ENDLESS, inputs: str = "The ") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    body = json.dumps({"inputs": inputs, "parameters": {"max_new_tokens": n, "do_sample": True}})
    head = f"POST /generate_stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
    return connection


def read_to_the_end(connection: socket.socket) -> bytes:
    """Return the rest of a reply and close the connection."""
    pieces = []
    with connection:
        while piece := connection.recv(1 << 16):
            pieces.append(piece)
            if b"".join(pieces[-2:]).endswith(b"\r\n0\r\n\r\n"):  # it may come in two pieces
                break
    return b"".join(pieces)


def load_of(http) -> int:
    models = http.get("/info").json()["models"]
    return sum(model["running"] + model["waiting"] for model in models)


def wait_until_idle(http) -> None:
    until = time.monotonic() + 20
    while load_of(http) and time.monotonic() < until:
        time.sleep(0.02)
    assert load_of(http) == 0


def test_a_disconnect_frees_the_row(server, http):
    connection = open_stream(server)
    assert b"data: " in connection.recv(4096) + connection.recv(4096)
    assert load_of(http) == 1
    connection.close()
    wait_until_idle(http)


def test_a_disconnect_during_the_prompt_frees_the_row(server, http):
    connection = open_stream(server, inputs="a" * 500_000)
    until = time.monotonic() + 20
    while load_of(http) == 0 and time.monotonic() < until:
        time.sleep(0.01)
    connection.close()
    wait_until_idle(http)


def test_a_disconnect_before_a_whole_reply_frees_the_row(server, http):
    connection = socket.create_connection(("127.0.0.1", server.port))
    body = json.dumps({"inputs": "The ", "parameters": {"max_new_tokens": ENDLESS}})
    connection.sendall(
        f"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: application/json\r\n\r\n{body}".encode()
    )
    until = time.monotonic() + 20
    while load_of(http) == 0 and time.monotonic() < until:
        time.sleep(0.01)
    connection.close()
    wait_until_idle(http)


@pytest.mark.slow
def test_a_thousand_streams_opened_and_dropped_at_random_leave_nothing_behind(server, http):
    process = psutil.Process(server.process.pid)
    crowd = [open_stream(server, 50) for _ in range(8)]  # start every thread of the server
    for connection in crowd:
        read_to_the_end(connection)
    wait_until_idle(http)
    files, threads = process.num_fds(), process.num_threads()
    dice = random.Random(9)

    def visit(visits: int) -> None:
        for _ in range(visits):
            connection = open_stream(server)
            if dice.random() < 0.7:
                connection.recv(dice.choice([1, 100, 5_000]))
            if dice.random() < 0.5:  # a reset instead of a FIN
                linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()

    visitors = [threading.Thread(target=visit, args=(50,)) for _ in range(20)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    wait_until_idle(http)
    until = time.monotonic() + 10
    files += 3  # connections to the store, which are opened when they are needed first
    while process.num_fds() > files and time.monotonic() < until:
        time.sleep(0.05)
    assert process.num_fds() <= files
    assert process.num_threads() <= threads


def test_a_stalled_client_costs_others_nothing(server, http):
    still = socket.socket()
    still.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    still.connect(("127.0.0.1", server.port))
    body = json.dumps({"inputs": "The ", "parameters": {"max_new_tokens": ENDLESS}})
    still.sendall(
        f"POST /generate_stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: application/json\r\n\r\n{body}".encode()
    )
    process = psutil.Process(server.process.pid)
    time.sleep(1.0)
    before = process.memory_info().rss
    assert read_to_the_end(open_stream(server, 5_000)).count(b"data: ") == 5_000
    time.sleep(1.0)
    assert process.memory_info().rss - before < 16 * 1024 * 1024
    still.close()
    wait_until_idle(http)


@pytest.mark.slow  # the drain takes 10 s
def test_a_stop_waits_for_short_streams_and_ends_long_ones_with_an_error(tmp_path):
    with serving(new_home(tmp_path)) as server:
        short, long = open_stream(server, 3_000), open_stream(server)
        long.recv(100)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert b'"finish_reason": "length"' in read_to_the_end(short)
        rest = read_to_the_end(long)
        assert b'"error_type": "draining"' in rest
        assert server.process.wait(20) in {0, -signal.SIGTERM}
        assert time.monotonic() - began < 12 + 3  # the drain's 10 s and a slow machine's share


def test_a_stop_of_an_idle_server_is_quick(tmp_path):
    with serving(new_home(tmp_path)) as server:
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) in {0, -signal.SIGTERM}
        assert time.monotonic() - began < 8


def test_a_row_whose_numbers_overflow_fails_alone(tmp_path):
    home = new_home(tmp_path)
    overflowing = ModelSpec(2, None, (LayerSpec("lstm", 4, Activation.RELU),))
    put_model(home / "model_store", "overflowing", overflowing, 3e38, "ab")
    (home / "model_store" / "registry.json").unlink()
    with serving(home) as server:
        body = {"inputs": "ab", "model": "overflowing", "parameters": {"max_new_tokens": 9}}
        well = {"inputs": "The ", "model": "demo", "parameters": {"max_new_tokens": 9}}
        for path, status in (("/generate", 424), ("/generate_stream", 200)):
            reply = httpx2.post(server.url + path, json=body)
            assert reply.status_code == status
            assert '"error_type": "generation"' in reply.text
            assert httpx2.post(server.url + "/generate", json=well).status_code == 200
