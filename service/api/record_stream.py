"""A response of bytes that are made while they are sent."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable

from fastapi import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.errors import CarouselError

_log = logging.getLogger(__name__)


class RecordStream(Response):
    """Sends pieces until they end. It leaves the body unfinished where an error ends them.

    So a client of HTTP knows that there should have been more. A client that takes nothing for
    `send_limit_s` is left, too. `on_end` is called in every case.
    """

    def __init__(
        self,
        first: bytes,
        pieces: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        on_end: Callable[[], object],
        send_limit_s: float,
    ) -> None:
        super().__init__(media_type=media_type, headers={"Cache-Control": "no-store"})
        self.raw_headers = [item for item in self.raw_headers if item[0] != b"content-length"]
        self._first, self._pieces, self._on_end = first, pieces, on_end
        self._send_limit_s = send_limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the pieces. Returns when they have ended, or nobody takes them."""
        start: Message = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        try:
            await send(start)
            await self._send(send, self._first, is_last=False)
            async for piece in self._pieces:
                await self._send(send, piece, is_last=False)
            await self._send(send, b"", is_last=True)
        except (CarouselError, HTTPException) as error:
            _log.info("a stream of records has ended early: %s", error)
        except (OSError, ClientDisconnect):  # TimeoutError is one
            pass
        finally:
            self._on_end()
            await self._pieces.aclose()

    async def _send(self, send: Send, body: bytes, *, is_last: bool) -> None:
        async with asyncio.timeout(self._send_limit_s):
            await send({"type": "http.response.body", "body": body, "more_body": not is_last})
