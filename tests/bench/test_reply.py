"""The benchmarks' client takes replies apart as HTTP allows them."""

import json

import httptools
import pytest

from bench.reply import ReplyReader

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = b"".join(
    b"data: " + json.dumps({"token": text}).encode() + b"\n\n"
    for text in ("a", "\n", "data: ", "\ndata: ", "\r\n0\r\n\r\n", "é")
)


def chunked(*chunks: bytes) -> bytes:
    return HEAD + b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in (*chunks, b""))


def test_a_chunk_ends_at_any_byte():
    for border in range(1, len(EVENTS)):
        reader = ReplyReader()
        reader.feed(chunked(EVENTS[:border], EVENTS[border:]))
        assert (reader.is_complete, reader.events, reader.status) == (True, 6, 200), border


def test_a_read_ends_at_any_byte():
    reply = chunked(EVENTS[:50], EVENTS[50:])
    for border in range(1, len(reply)):
        reader = ReplyReader()
        reader.feed(reply[:border])
        assert not reader.is_complete
        reader.feed(reply[border:])
        assert (reader.is_complete, reader.events) == (True, 6), border


def test_every_chunk_and_every_read_is_one_byte():
    reader, reply = ReplyReader(), chunked(*(bytes([byte]) for byte in EVENTS))
    for byte in reply[:-1]:
        reader.feed(bytes([byte]))
        assert not reader.is_complete
    reader.feed(reply[-1:])
    assert (reader.is_complete, reader.events, reader.body_bytes) == (True, 6, len(EVENTS))


def test_extensions_and_trailers_are_no_body():
    body = b"8;a=\ndata:\r\ndata: 1\n\r\n0\r\nX-Data: data: 2\r\n\r\n"
    reader = ReplyReader()
    reader.feed(HEAD + body.replace(b"=\ndata:", b'="data:"'))
    assert (reader.is_complete, reader.events) == (True, 1)


def test_replies_follow_one_another_in_either_framing():
    reader = ReplyReader()
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ndata: 1\n\n"
    for reply in (chunked(EVENTS), whole, chunked(EVENTS[:9])):
        reader.feed(reply)
        assert reader.is_complete
    assert reader.events == 1  # of the last one alone


def test_what_is_no_reply_is_refused():
    with pytest.raises(httptools.HttpParserError):
        ReplyReader().feed(b"SSH-2.0-OpenSSH\r\n")
    with pytest.raises(httptools.HttpParserError):
        ReplyReader().feed(HEAD + b"zz\r\n")
