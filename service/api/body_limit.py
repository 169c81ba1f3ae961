"""Limits of request bodies: their size, the time to receive them, the values of their JSON."""

import asyncio
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

from service.api.json_size import JsonLimit, JsonSize
from service.api.limits import ApiLimits


@dataclass(frozen=True, slots=True)
class Limit:
    """The limits of one body."""

    size_bytes: int
    timeout_s: float  # of a body that arrives as fast as it has to
    first_timeout_s: float = 60.0
    bytes_per_s: int = 1_024  # after `first_timeout_s`, on average

    def timeout_at(self, received_bytes: int) -> float:
        """Return the time for the next piece, from the begin, once some bytes are received."""
        return min(self.timeout_s, self.first_timeout_s + received_bytes / self.bytes_per_s)


class BodyLimit:
    """Counts the bytes that arrive, whatever the Content-Length is.

    An error is raised where the body is read, so that the exception handlers make its reply.
    """

    def __init__(self, limit: Limit, by_path: Mapping[str, Limit], json_limit: JsonLimit) -> None:
        """`limit` applies to the paths that are not in `by_path`."""
        self._limit, self._by_path, self._json_limit = limit, by_path, json_limit

    def limited(self, scope: Scope, receive: Receive) -> Receive:
        """Return `receive` with the limits of a request."""
        limit = self._by_path.get(scope["path"], self._limit)
        return LimitedBody(scope, receive, limit, self._json_limit).receive


class LimitedBody:
    """The body of one request, of which each piece is counted. Belongs to the event loop."""

    __slots__ = (
        *("_begin_s", "_declared", "_is_complete", "_is_encoded", "_json_limit", "_json_size"),
        *("_limit", "_receive", "_received_bytes"),
    )

    def __init__(self, scope: Scope, receive: Receive, limit: Limit, json_limit: JsonLimit) -> None:
        self._receive, self._limit, self._json_limit = receive, limit, json_limit
        self._begin_s = asyncio.get_running_loop().time()
        self._received_bytes, self._is_complete, self._is_encoded = 0, False, False
        self._declared, self._json_size = b"0", None
        for name, value in scope["headers"]:
            if name == b"content-length":
                self._declared = value
            elif name == b"content-type" and b"json" in value.lower():
                self._json_size = JsonSize()
            elif name == b"content-encoding":
                self._is_encoded = True

    async def receive(self) -> Message:
        """Return the next piece. Raises HTTPException: 408, 413, 415."""
        if self._is_complete:  # the caller waits for the disconnect
            return await self._receive()
        if self._is_encoded:
            raise HTTPException(415, "the body is compressed; send it without Content-Encoding")
        if self._declared.isdigit() and int(self._declared) > self._limit.size_bytes:
            raise _too_large(self._limit)
        message = await self._next()
        piece = message.get("body", b"")
        self._received_bytes += len(piece)
        if self._received_bytes > self._limit.size_bytes:
            raise _too_large(self._limit)
        if self._json_size is not None:
            self._check_json(self._json_size, piece)
        self._is_complete = not message.get("more_body", False)
        return message

    async def _next(self) -> Message:
        """Return the next piece in its time. One that has arrived already needs no timer."""
        receiving = self._receive().__await__()
        try:
            waits_for = next(receiving)
        except StopIteration as arrived:
            return cast("Message", arrived.value)
        timeout_s = self._limit.timeout_at(self._received_bytes)
        try:
            async with asyncio.timeout_at(self._begin_s + timeout_s):
                return await _Begun(waits_for, receiving)
        except TimeoutError:
            slow = f"the body was not complete within {timeout_s:.0f} s"
            raise HTTPException(408, slow, {"Connection": "close"}) from None

    def _check_json(self, size: JsonSize, piece: bytes) -> None:
        if b"\0" in piece:  # of UTF-16, whose values cannot be counted so; UTF-8 has none
            raise HTTPException(415, "JSON is sent in UTF-8")
        size.add(piece)
        excess = size.excess(self._json_limit)
        if excess is not None:
            raise HTTPException(413, excess)


class _Begun:
    """The rest of an awaitable that has been begun, and waits for something."""

    def __init__(self, waits_for: Any, rest: Generator[Any, Any, Message]) -> None:
        self._waits_for, self._rest = waits_for, rest

    def __await__(self) -> Generator[Any, Any, Message]:
        waits_for, rest = self._waits_for, self._rest
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001 (a cancellation, for what is awaited)
                resume = partial(rest.throw, error)
            else:
                resume = partial(rest.send, sent)
            try:
                waits_for = resume()
            except StopIteration as arrived:
                return cast("Message", arrived.value)


def body_limit_of(limits: ApiLimits) -> BodyLimit:
    """Return the limits of all routes."""
    upload_s = limits.upload_timeout_s
    return BodyLimit(
        Limit(limits.max_body_bytes, limits.body_timeout_s),
        {
            "/admin/models/upload": Limit(limits.max_model_upload_bytes, upload_s),
            "/sessions/import": Limit(limits.max_session_import_bytes, limits.body_timeout_s),
            "/score/text": Limit(limits.max_score_text_bytes, upload_s),
            "/inspect/text": Limit(limits.max_score_text_bytes, upload_s),
            "/corpora": Limit(limits.max_corpus_bytes, upload_s),
            "/v1/files": Limit(limits.max_file_bytes, upload_s),
        },
        limits.json,
    )


def _too_large(limit: Limit) -> HTTPException:
    return HTTPException(413, f"the body has more than {limit.size_bytes:,} bytes")
