"""Limits of request bodies: their size, the time to receive them, their JSON brackets."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Limit:
    """The limits of one body."""

    size_bytes: int
    timeout_s: float


class BodyLimit:
    """Middleware that counts the bytes that arrive, whatever the Content-Length is.

    An error is raised where the body is read, so that the exception handlers make its reply.
    """

    def __init__(
        self, app: ASGIApp, limit: Limit, by_path: Mapping[str, Limit], max_json_brackets: int
    ) -> None:
        """`limit` applies to the paths that are not in `by_path`."""
        self._app, self._limit, self._by_path = app, limit, by_path
        self._max_json_brackets = max_json_brackets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._by_path.get(scope["path"], self._limit)
        declared = headers.get("content-length", "0")
        is_json, n_brackets = "json" in headers.get("content-type", ""), 0
        deadline_s = asyncio.get_running_loop().time() + limit.timeout_s
        received_bytes, is_complete = 0, False

        async def limited() -> Message:
            nonlocal received_bytes, is_complete, n_brackets
            if is_complete:  # the caller waits for the disconnect
                return await receive()
            if "content-encoding" in headers:
                raise HTTPException(415, "the body is compressed; send it without Content-Encoding")
            if declared.isdecimal() and int(declared) > limit.size_bytes:
                raise _too_large(limit)
            try:
                async with asyncio.timeout_at(deadline_s):
                    message = await receive()
            except TimeoutError:
                slow = f"the body was not complete within {limit.timeout_s:.0f} s"
                raise HTTPException(408, slow) from None
            piece = message.get("body", b"")
            received_bytes += len(piece)
            if received_bytes > limit.size_bytes:
                raise _too_large(limit)
            if is_json:  # parsing a list costs a hundred times as much as its characters
                n_brackets += piece.count(b"[") + piece.count(b"{")
                if n_brackets > self._max_json_brackets:
                    raise HTTPException(
                        413, f"the body has more than {self._max_json_brackets:,} brackets"
                    )
            is_complete = not message.get("more_body", False)
            return message

        await self._app(scope, limited, send)


def _too_large(limit: Limit) -> HTTPException:
    return HTTPException(413, f"the body has more than {limit.size_bytes:,} bytes")
