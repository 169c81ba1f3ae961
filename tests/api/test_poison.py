"""No request of a client causes a 500."""

import json
import socket

import pytest
from pydantic import ValidationError

from service.api.tgi.schemas import GenerateBody

DEEP = "[" * 100_000
HUGE = "9" * 5_000


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"[]", 422),
        (b"null", 422),
        (b'"text"', 422),
        (b'{"inputs": 5}', 422),
        (b'{"inputs": ""}', 422),
        (b'{"inputs": null}', 422),
        (b'{"inputs": "a\\ud800"}', 422),
        (b'{"inputs": "a\\u0000"}', 422),
        (b'{"inputs": "\xff"}', 400),
        (b'{"inputs": "a", "parameters": {"temperature": NaN}}', 422),
        (b'{"inputs": "a", "parameters": {"temperature": Infinity}}', 422),
        (b'{"inputs": "a", "parameters": {"temperature": 1e999}}', 422),
        (b'{"inputs": "a", "parameters": {"seed": ' + HUGE.encode() + b"}}", 400),
        (b'{"inputs": "a", "parameters": {"seed": ' + HUGE[:400].encode() + b"}}", 422),
        (b'{"inputs": ' + DEEP.encode() + b"}", 413),
        (b'{"inputs": ' + DEEP[:16_000].encode() + b"}", 400),
        (b'{"inputs": "a", "parameters": {"grammar": ' + b"[" * 900 + b"]" * 900 + b"}}", 422),
        (b'{"inputs": "a", "model": "../../etc/passwd"}', 404),
        (b'{"inputs": "a", "model": "a@9999999999999999999"}', 422),
        (json.dumps({"inputs": "a", "parameters": {"stop": "x" * 200_000}}).encode(), 422),
        (json.dumps({"inputs": "é" * 1_000_001}).encode(), 422),
        (json.dumps({f"field{i}": i for i in range(5_000)}).encode(), 422),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_a_poisonous_body_is_refused_in_the_contracts_shape(http, path, body, status):
    reply = http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == status
    assert reply.json().keys() == {"error", "error_type"}
    assert len(reply.content) < 1024
    assert reply.content.isascii()


def test_very_many_fields_are_one_error():
    with pytest.raises(ValidationError) as refused:
        GenerateBody.model_validate({str(i): 1 for i in range(10_000)})
    assert refused.value.error_count() == 1


def test_the_last_of_two_equal_fields_counts(http):
    body = b'{"inputs": "a", "parameters": {"max_new_tokens": 3, "max_new_tokens": 5}}'
    reply = http.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert len(reply.json()["generated_text"]) == 5


def test_a_byte_order_mark_is_no_part_of_the_text(http):
    body = b'\xef\xbb\xbf{"inputs": "a", "parameters": {"max_new_tokens": 3}}'
    reply = http.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 200


def test_a_body_over_the_limit_is_refused_however_it_is_framed(http):
    big = b'{"inputs": "' + b"a" * (9 * 1024 * 1024) + b'"}'
    headers = {"Content-Type": "application/json"}
    assert http.post("/generate", content=big, headers=headers).status_code == 413

    def chunks():
        yield from (big[i : i + 65_536] for i in range(0, len(big), 65_536))

    assert http.post("/generate", content=chunks(), headers=headers).status_code == 413


def exchange(server, request: bytes, wait_s: float = 20.0) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait_s) as connection:
        connection.sendall(request)
        pieces = []
        while piece := connection.recv(65_536):
            pieces.append(piece)
        return b"".join(pieces)


def test_a_head_without_end_is_refused(server):
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"a" * 1_000_000
    with _either_reset_or() as outcome:
        outcome.reply = exchange(server, head)
    assert outcome.reply is None or outcome.reply.startswith(b"HTTP/1.1 431")


def test_many_small_headers_are_refused(server):
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"".join(
        b"X-%d: a\r\n" % i for i in range(20_000)
    )
    with _either_reset_or() as outcome:
        outcome.reply = exchange(server, head + b"\r\n")
    assert outcome.reply is None or outcome.reply.startswith(b"HTTP/1.1 431")


class _either_reset_or:  # noqa: N801 (reads as a phrase)
    """A refusal may arrive before the request is sent; then the connection is reset."""

    reply: bytes | None = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        return kind is not None and issubclass(kind, ConnectionError)


@pytest.mark.slow  # the limit is 10 s
def test_a_head_that_drips_is_cut_off(server, http):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost:")
        assert connection.recv(10) == b""  # closed by the server at its limit of 10 s
    assert http.get("/health").status_code == 200
