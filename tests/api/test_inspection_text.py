import asyncio
import json
import socket
import time

import httpx2
import numpy as np
import psutil
import pytest
from starlette.requests import ClientDisconnect, Request

from bench.tracing import peak_bytes
from bench.tracing import trace as bench_trace
from service.api.record_stream import RecordStream
from service.api.text_body import texts_ahead
from service.errors import Validation
from tests.api.conftest import AWKWARD
from tests.api.test_inspection import CELLS, TEXT, inspect

PLAIN = {"Content-Type": "text/plain"}


def records(content: bytes) -> tuple[dict, np.ndarray]:
    line, _, rest = content.partition(b"\n")
    head = json.loads(line)
    kind = np.dtype([tuple(map(as_field, field)) for field in head["dtype"]])
    assert kind.itemsize == head["record_bytes"]
    return head, np.frombuffer(rest, kind)


def as_field(part):
    return tuple(part) if isinstance(part, list) else part


def trace(http, content, **params):
    reply = http.post("/inspect/text", params=params, content=content, headers=PLAIN)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["transfer-encoding"] == "chunked"
    return records(reply.content)


def test_records_are_the_values_of_an_inspection(http):
    text = TEXT * 10
    parts = [text[:1].encode(), text[1:700].encode(), text[700:].encode()]
    head, found = trace(http, iter(parts), cells="445,363,0", encoding="float32")
    whole = inspect(http, text, cells=CELLS)
    (layer,) = whole["layers"]
    assert head["digest"] == whole["digest"]
    assert head["precision"] == whole["precision"]
    assert head["layers"][0]["before"] == layer["before"]
    assert found["id"].tolist() == [token["id"] for token in whole["tokens"]]
    assert found["start"].tolist() == [token["start"] for token in whole["tokens"]]
    assert found["stop"].tolist() == [token["stop"] for token in whole["tokens"]]
    assert np.isnan(found["logprob"][0])
    scored = [token["logprob"] for token in whole["tokens"][1:]]
    assert [round(value, 7) for value in found["logprob"][1:].tolist()] == scored
    for name, rows in layer["signals"].items():
        assert found[f"layers.0.{name}"].tobytes() == np.array(rows, np.float32).tobytes(), name


def test_a_session_is_read_on(http):
    _, whole = trace(http, TEXT.encode(), cells="445", signals="c,f", encoding="float32")
    session = http.post("/sessions", json={"text": TEXT[:50]}).json()
    content = TEXT[50:].encode()
    head, rest = trace(
        http, content, cells="445", signals="c,f", encoding="float32", session_id=session["id"]
    )
    assert head["layers"][0]["before"]["c"] == whole["layers.0.c"][49].tolist()
    for name in ("layers.0.c", "layers.0.f", "logprob", "id"):
        assert rest[name].tobytes() == whole[name][50:].tobytes()


def test_bytes_have_their_range_in_the_first_line(http):
    _, exact = trace(http, TEXT.encode(), cells="445", signals="f,tanh_c", encoding="float32")
    head, found = trace(http, TEXT.encode(), cells="445", signals="f,tanh_c", encoding="uint8")
    for name, (low, high) in head["layers"][0]["ranges"].items():
        near = low + found[f"layers.0.{name}"] * (high - low) / 255
        assert np.abs(near - exact[f"layers.0.{name}"]).max() <= 1.01 / 255 * (high - low) / 2


@pytest.mark.parametrize(
    ("params", "content", "sentence"),
    [
        ({"cells": "448"}, b"abc", "`cells` has 448; those of layer 0 are 0 to 447"),
        ({"cells": "a"}, b"abc", "`cells` has 'a': write whole numbers with commas"),
        ({"cells": ""}, b"abc", "`cells` is empty"),
        ({"signals": "z"}, b"abc", "whose signals are i, f, g, o, c, h"),
        ({"encoding": "uint8"}, b"abc", "has no bounds"),
        ({"encoding": "numbers"}, b"abc", "set `encoding` to float32"),
        ({}, b"", "no token"),
        ({}, b"ab\xff", "not UTF-8 from byte 2 on"),
        ({}, "é".encode(), "no token for 'é'"),
    ],
)
def test_what_cannot_be_streamed_is_refused_before_the_first_byte(http, params, content, sentence):
    for _ in range(3):  # a refusal holds no place
        reply = http.post("/inspect/text", params=params, content=content, headers=PLAIN)
        assert reply.status_code == 422
        assert sentence in reply.json()["error"]


def test_an_error_after_the_first_byte_leaves_the_reply_unfinished(http):
    content = b"a" * 10_000 + "é".encode()
    for _ in range(3):
        with pytest.raises(httpx2.RemoteProtocolError):
            http.post(
                "/inspect/text", params={"cells": "0"}, content=iter([content]), headers=PLAIN
            )
    assert trace(http, b"abc", cells="0")[1].shape == (3,)


def test_a_client_that_does_not_read_stops_the_reading_of_its_text(server):
    text = (AWKWARD * 5_000).encode()
    n_tokens, process = 5_000 * len(AWKWARD), psutil.Process(server.process.pid)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.settimeout(60)
        client.connect(("127.0.0.1", server.port))
        client.sendall(
            b"POST /inspect/text?model=awkward&encoding=float32 HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: text/plain\r\nConnection: close\r\n"
            b"Content-Length: " + str(len(text)).encode() + b"\r\n\r\n"
        )
        client.sendall(text[:1_000])
        content = client.recv(1)
        before = process.memory_info().rss
        client.sendall(text[1_000:])
        time.sleep(3)
        assert process.memory_info().rss - before < 8 * 1024 * 1024
        pieces = [content]
        while piece := client.recv(1_000_000):
            pieces.append(piece)
    content = b"".join(pieces)
    assert content.startswith(b"HTTP/1.1 200")
    assert content.endswith(b"\r\n0\r\n\r\n")
    assert len(content) > n_tokens * (28 + 8 * 6 * 4)


def test_a_client_that_takes_nothing_is_left():
    ended = []

    async def pieces():
        yield b"never sent"

    async def send(message):
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    response = RecordStream(
        b"a", pieces(), media_type="text/plain", on_end=lambda: ended.append(1), send_limit_s=0.01
    )
    asyncio.run(response({}, None, send))
    assert ended == [1]


def reading(pieces, read_ahead_bytes, taken):
    """How many pieces are read of a body once so many parts of it have been taken."""
    asked, gone = [], asyncio.Event()

    async def receive():
        asked.append(1)
        if len(asked) > len(pieces):
            await asyncio.Event().wait()  # the client stays
        body = pieces[len(asked) - 1]
        if body is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": len(asked) < len(pieces)}

    async def read():
        request = Request({"type": "http"}, receive)
        parts = texts_ahead(request, read_ahead_bytes, gone.set)
        texts = [await anext(parts) for _ in range(taken)]
        for _ in range(100):
            await asyncio.sleep(0)
        n_asked = min(len(asked), len(pieces))
        assert gone.is_set() == (None in pieces)
        texts += [part async for part in parts]
        return n_asked, texts

    return asyncio.run(read())


def test_so_much_of_a_text_is_read_ahead_and_no_more():
    pieces = [b"a" * 1_000] * 50
    whole = [("a" * 1_000, False)] * 50 + [("", True)]
    assert reading(pieces, 1, 1)[0] <= 3
    n_asked, texts = reading(pieces, 10_000, 1)
    assert 10 <= n_asked <= 12
    assert texts == whole
    n_asked, texts = reading(pieces, 10_000, 5)
    assert 14 <= n_asked <= 16
    assert reading(pieces, 100_000, 1) == (50, whole)
    with pytest.raises(Validation, match="not UTF-8 from byte 1000 on"):
        reading([b"a" * 1_000, b"\xff"], 10_000, 1)
    with pytest.raises(ClientDisconnect):
        reading([b"a" * 1_000, None], 10_000, 1)


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_trace_whose_client_has_gone_ends(server, http, is_stored):
    """Two traces that would take minutes leave their places when their clients do."""
    text, query = b"The text. " * 100_000, ""
    if is_stored:
        made = http.post("/corpora", params={"name": "a"}, content=text, headers=PLAIN).json()
        text, query = b"", f"?corpus_id={made['id']}"
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", server.port), 60) as client:
            client.sendall(
                f"POST /inspect/text{query} HTTP/1.1\r\nHost: localhost\r\n"
                f"Content-Type: text/plain\r\nContent-Length: {len(text)}\r\n\r\n".encode()
            )
            client.sendall(text)
            assert client.recv(12) == b"HTTP/1.1 200"
    until = time.monotonic() + 60
    while (reply := http.post("/inspect", json={"inputs": "a", "cells": [0]})).status_code == 429:
        assert time.monotonic() < until
        time.sleep(0.2)
    assert reply.status_code == 200


def test_the_benchmarks_trace_is_read_while_it_is_sent(server):
    seen = []
    assert bench_trace(server.port, "model=demo&cells=445", 5_000, seen.append) == 5_000
    assert sorted(seen) == seen
    before, most = peak_bytes(server.port, "model=demo&cells=445", 1_000)
    assert 0 < before <= most
