"""How much a request's body may hold, how long it may take, and in what form it comes."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BRACKETS = 1_100_000
"""In JSON, those of texts included: a million characters may all be brackets."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Of one body."""

    size_bytes: int
    time_s: float


class BodyLimit:
    """Middleware: counts the bytes that arrive, whatever the head says of them.

    A refusal is raised where the body is read, so that it leaves as every other error does.
    """

    def __init__(self, app: ASGIApp, limit: Limit, exceptions: Mapping[str, Limit]) -> None:
        """`exceptions` are limits of their own, by path."""
        self._app, self._limit, self._exceptions = app, limit, exceptions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._exceptions.get(scope["path"], self._limit)
        declared = headers.get("content-length", "0")
        is_json, opened = "json" in headers.get("content-type", ""), 0
        until_s = asyncio.get_running_loop().time() + limit.time_s
        received_bytes, is_complete = 0, False

        async def limited() -> Message:
            nonlocal received_bytes, is_complete, opened
            if is_complete:  # what is awaited now is the client's leaving
                return await receive()
            if "content-encoding" in headers:
                raise HTTPException(415, "the body is compressed; send it without Content-Encoding")
            if declared.isdecimal() and int(declared) > limit.size_bytes:
                raise _too_large(limit)
            try:
                async with asyncio.timeout_at(until_s):
                    message = await receive()
            except TimeoutError:
                slow = f"the body was not complete within {limit.time_s:.0f} s"
                raise HTTPException(408, slow) from None
            piece = message.get("body", b"")
            received_bytes += len(piece)
            if received_bytes > limit.size_bytes:
                raise _too_large(limit)
            if is_json:  # taking a list apart costs a hundred times what its characters cost
                opened += piece.count(b"[") + piece.count(b"{")
                if opened > MAX_BRACKETS:
                    raise HTTPException(413, f"the body has more than {MAX_BRACKETS:,} brackets")
            is_complete = not message.get("more_body", False)
            return message

        await self._app(scope, limited, send)


def _too_large(limit: Limit) -> HTTPException:
    return HTTPException(413, f"the body has more than {limit.size_bytes:,} bytes")
