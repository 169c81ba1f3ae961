"""What is between the socket and the routes."""

import asyncio
import json
import logging

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.api.body_limit import BodyLimit, Limit
from service.api.json_size import JsonLimit
from service.api.request_log import RequestLog, RequestRecords
from service.api.tracing import NoTracer

SCOPE = {"type": "http", "method": "POST", "path": "/x", "headers": []}


def logged(app) -> RequestLog:
    return RequestLog(app, [RequestRecords(str).ended], NoTracer())


async def reply_of(app, headers=()) -> list[dict]:
    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    await app(SCOPE | {"headers": list(headers)}, None, send)
    return sent


async def test_an_internal_error_is_a_500_without_detail_and_a_log_with_all(caplog):
    async def broken(*_) -> None:
        raise RuntimeError("/secret/path")

    with caplog.at_level(logging.INFO):
        start, body = await reply_of(logged(broken), [(b"x-request-id", b"mine")])
    assert start["status"] == 500
    assert (b"x-request-id", b"mine") in start["headers"]
    assert json.loads(body["body"])["error_type"] == "internal"
    assert b"secret" not in body["body"]
    mistake, request = caplog.records
    assert "/secret/path" in mistake.exc_text
    assert mistake.request_id == request.request_id == "mine"
    assert request.status == 500


async def test_a_client_that_disconnects_within_its_body_is_no_internal_error(caplog):
    async def left(*_) -> None:
        raise ClientDisconnect

    with caplog.at_level(logging.INFO):
        assert await reply_of(logged(left)) == []
    (request,) = caplog.records
    assert request.status == 499


async def test_an_internal_error_after_the_first_byte_cuts_the_connection(caplog):
    async def broken(_scope, _receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    with caplog.at_level(logging.INFO), pytest.raises(RuntimeError):
        await reply_of(logged(broken))
    assert caplog.records[-1].status == 200


@pytest.mark.parametrize("given", [b"", b"a b", b"a\nb", b"\xff", b"x" * 129, b"a/b"])
async def test_a_request_id_that_could_do_harm_is_replaced(given, caplog):
    async def answer(_scope, _receive, send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})

    with caplog.at_level(logging.INFO):
        (start,) = await reply_of(logged(answer), [(b"x-request-id", given)])
    ((_, made),) = start["headers"]
    assert made != given
    assert made.decode().isalnum()
    assert caplog.records[-1].request_id == made.decode()


USUAL = JsonLimit(10, 10)


class Sender:
    """A client that sends pieces of a body and then nothing."""

    def __init__(self, *pieces: bytes, ends: bool = True) -> None:
        self._messages = [
            {"type": "http.request", "body": piece, "more_body": not ends or i < len(pieces) - 1}
            for i, piece in enumerate(pieces)
        ]

    async def receive(self) -> dict:
        if self._messages:
            return self._messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError


async def read(
    sender: Sender, *, path="/x", headers=(), timeout_s: float = 5.0, json_limit=USUAL
) -> bytes:
    """Return what an app behind a limit of 10 bytes reads (of 20 on /large)."""
    limit = BodyLimit(Limit(10, timeout_s), {"/large": Limit(20, timeout_s)}, json_limit)
    scope = SCOPE | {"path": path, "headers": list(headers)}
    receive, body, more = limit.limited(scope, sender.receive), b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    return body


async def test_a_body_up_to_the_limit_arrives_whole():
    assert await read(Sender(b"12345", b"67890")) == b"1234567890"
    assert await read(Sender(b"x" * 20), path="/large") == b"x" * 20


@pytest.mark.parametrize(
    ("sender", "headers", "status"),
    [
        (Sender(b"12345", b"678901"), [], 413),
        (Sender(b"1", b"2"), [(b"content-length", b"11")], 413),
        (Sender(b"12345678901"), [(b"content-length", b"3")], 413),
        (Sender(b"1"), [(b"content-encoding", b"gzip")], 415),
        (Sender(b"1", ends=False), [], 408),
    ],
)
async def test_a_body_that_is_too_much_is_refused_where_it_is_read(sender, headers, status):
    with pytest.raises(HTTPException) as refused:
        await read(sender, headers=headers, timeout_s=0.05)
    assert refused.value.status_code == status


async def test_json_that_takes_long_to_take_apart_is_refused():
    json_body = [(b"content-type", b"Application/JSON")]
    text = [(b"content-type", b"text/plain")]
    limit = {"json_limit": JsonLimit(3, 3)}
    assert await read(Sender(b"[{[", b"]}]"), headers=json_body, **limit) == b"[{[]}]"
    assert await read(Sender(b"[[", b"[["), headers=text, **limit) == b"[[[["
    with pytest.raises(HTTPException, match="3 lists and objects"):
        await read(Sender(b"[[", b"[["), headers=json_body, **limit)
    with pytest.raises(HTTPException, match="3 values"):
        await read(Sender(b"[1,1,", b"1,1,"), headers=json_body, **limit)
    assert await read(Sender(b'[",,,,,,"', b"]"), headers=json_body, **limit)
    with pytest.raises(HTTPException, match="3 values"):  # whichever of the two a reader takes
        await read(Sender(b"[,,,,]"), headers=[*json_body, *text], **limit)


async def test_an_upload_may_take_its_time_if_it_does_not_drip():
    limit = Limit(10**9, 3_600.0)
    assert limit.timeout_at(0) == 60
    assert limit.timeout_at(1_024 * 100) == 160
    assert limit.timeout_at(10**9) == 3_600
    assert Limit(10, 5.0).timeout_at(9) == 5


def test_no_log_has_a_sessions_id_whole(server, http):
    session = http.post("/sessions", json={"text": "The "}).json()["id"]
    body = {"inputs": "", "session_id": session, "parameters": {"max_new_tokens": 3}}
    assert http.post("/generate", json=body).status_code == 200
    for path in ("", "/text", "/events", "/state", "/nothing"):
        http.get(f"/sessions/{session}{path}")
    log = server.log.read_text()
    assert f"/sessions/{session[:6]}" in log
    assert session not in log


class LateSender(Sender):
    """Sends each piece a moment after it is asked for."""

    async def receive(self):
        await asyncio.sleep(0.01)
        return await super().receive()


async def test_a_body_that_is_waited_for_arrives_whole():
    assert await read(LateSender(b"12345", b"67890")) == b"1234567890"


async def test_a_wait_for_a_body_can_be_cancelled():
    task = asyncio.create_task(read(Sender(b"1", ends=False), timeout_s=60.0))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
