"""A body that is a text of any length, read as it arrives."""

import asyncio
import codecs
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request

from service.api.caller import caller_of
from service.api.state import get_state
from service.errors import Validation

READ_AHEAD_BYTES = 4 * 1024 * 1024


async def texts_of(
    request: Request, read_ahead_bytes: int = 0
) -> AsyncGenerator[tuple[str, bool], None]:
    """Yield each part of a body in UTF-8, and whether it is the last. Raises Validation.

    So much of the body is read beside what is done with the parts; a client that sends all of a
    body before it reads a reply needs it of a reply that begins before.
    """
    body = request.stream()
    if read_ahead_bytes:
        async with aclosing(_ahead(body, read_ahead_bytes)) as pieces:
            async for part in _decoded(pieces):
                yield part
    else:
        async for part in _decoded(body):
            yield part


async def _ahead(
    body: AsyncGenerator[bytes, None], limit_bytes: int
) -> AsyncGenerator[bytes, None]:
    """Yield the same pieces, of which a task has read more already."""
    waiting, room = asyncio.Queue[bytes | None](), asyncio.Event()
    size_bytes = 0

    async def read() -> None:
        nonlocal size_bytes
        try:
            async for piece in body:
                waiting.put_nowait(piece)
                size_bytes += len(piece)
                while size_bytes >= limit_bytes:
                    room.clear()
                    await room.wait()
        finally:
            waiting.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        while (piece := await waiting.get()) is not None:
            size_bytes -= len(piece)
            room.set()
            yield piece
        await reading  # raises what has ended it
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _decoded(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[tuple[str, bool], None]:
    decoder, size_bytes = codecs.getincrementaldecoder("utf-8")(), 0
    async for piece in pieces:  # an empty one is the last
        try:
            text = decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            start = size_bytes + len(piece) - len(error.object) + error.start
            raise Validation(f"the text is not UTF-8 from byte {start} on") from error
        size_bytes += len(piece)
        yield text, not piece


def most_tokens(request: Request) -> int:
    """Return the length of the body, which bounds its tokens. Raises Validation."""
    length = request.headers.get("content-length", "")
    if length.isdecimal():
        return int(length)
    limits = get_state(request).metering.limits_of(caller_of(request.scope))
    if limits.has_rates:
        raise Validation("this key has limits: send the text with a Content-Length")
    return 0
