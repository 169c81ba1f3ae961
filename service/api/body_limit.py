"""Limits of request bodies: their size, the time to receive them, the values of their JSON."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.json_size import JsonLimit, JsonSize


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
    """Middleware that counts the bytes that arrive, whatever the Content-Length is.

    An error is raised where the body is read, so that the exception handlers make its reply.
    """

    def __init__(
        self, app: ASGIApp, limit: Limit, by_path: Mapping[str, Limit], json_limit: JsonLimit
    ) -> None:
        """`limit` applies to the paths that are not in `by_path`."""
        self._app, self._limit, self._by_path = app, limit, by_path
        self._json_limit = json_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._by_path.get(scope["path"], self._limit)
        declared = headers.get("content-length", "0")
        json_size = JsonSize() if "json" in headers.get("content-type", "").lower() else None
        begin_s = asyncio.get_running_loop().time()
        received_bytes, is_complete = 0, False

        async def limited() -> Message:
            nonlocal received_bytes, is_complete
            if is_complete:  # the caller waits for the disconnect
                return await receive()
            if "content-encoding" in headers:
                raise HTTPException(415, "the body is compressed; send it without Content-Encoding")
            if declared.isdecimal() and int(declared) > limit.size_bytes:
                raise _too_large(limit)
            timeout_s = limit.timeout_at(received_bytes)
            try:
                async with asyncio.timeout_at(begin_s + timeout_s):
                    message = await receive()
            except TimeoutError:
                slow = f"the body was not complete within {timeout_s:.0f} s"
                raise HTTPException(408, slow, {"Connection": "close"}) from None
            piece = message.get("body", b"")
            received_bytes += len(piece)
            if received_bytes > limit.size_bytes:
                raise _too_large(limit)
            if json_size is not None:
                self._check_json(json_size, piece)
            is_complete = not message.get("more_body", False)
            return message

        await self._app(scope, limited, send)

    def _check_json(self, size: JsonSize, piece: bytes) -> None:
        if b"\0" in piece:  # of UTF-16, whose values cannot be counted so; UTF-8 has none
            raise HTTPException(415, "JSON is sent in UTF-8")
        size.add(piece)
        excess = size.excess(self._json_limit)
        if excess is not None:
            raise HTTPException(413, excess)


def _too_large(limit: Limit) -> HTTPException:
    return HTTPException(413, f"the body has more than {limit.size_bytes:,} bytes")
