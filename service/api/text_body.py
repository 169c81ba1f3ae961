"""A body that is a text of any length, read as it arrives."""

import asyncio
import codecs
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.api.caller import caller_of
from service.api.http_request import wait_for_disconnect
from service.api.sampling_fields import INPUT_ERROR
from service.api.state import get_state
from service.errors import Validation
from service.training.corpus_store import CorpusStore

READ_AHEAD_BYTES = 4 * 1024 * 1024
CORPUS_PART_CHARACTERS = 65_536


async def texts_of(request: Request) -> AsyncGenerator[tuple[str, bool], None]:
    """Yield each part of a body in UTF-8, and whether it is the last. Raises Validation."""
    async for part in _decoded(request.stream()):
        yield part


async def texts_ahead(
    request: Request, limit_bytes: int, on_disconnect: Callable[[], object]
) -> AsyncGenerator[tuple[str, bool], None]:
    """Yield the same, with so much of the body read beside what is done with the parts.

    A client that sends all of a body before it reads a reply needs it of a reply that begins
    before. `on_disconnect` is called when the client has gone, then or after its text.
    """
    async with aclosing(_ahead(request, limit_bytes, on_disconnect)) as pieces:
        async for part in _decoded(pieces):
            yield part


async def _ahead(
    request: Request, limit_bytes: int, on_disconnect: Callable[[], object]
) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of a body, of which a task has read more already."""
    waiting, room = asyncio.Queue[bytes | None](), asyncio.Event()
    size_bytes = 0

    async def read() -> None:
        nonlocal size_bytes
        try:
            async for piece in request.stream():
                waiting.put_nowait(piece)
                size_bytes += len(piece)
                while size_bytes >= limit_bytes:
                    room.clear()
                    await room.wait()
            await wait_for_disconnect(request.receive)
            raise ClientDisconnect
        except ClientDisconnect:
            on_disconnect()
            raise
        finally:
            waiting.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        while (piece := await waiting.get()) is not None:
            size_bytes -= len(piece)
            room.set()
            yield piece
            if not piece:
                return
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


async def corpus_texts(
    corpora: CorpusStore, owner: str, corpus_id: str
) -> AsyncGenerator[tuple[str, bool], None]:
    """Yield each part of a stored text, and whether it is the last. Raises CorpusNotFound."""
    with await asyncio.to_thread(corpora.open, owner, corpus_id) as file:
        while text := await asyncio.to_thread(file.read, CORPUS_PART_CHARACTERS):
            yield text, False
    yield "", True


def most_tokens(request: Request) -> int:
    """Return the length of the body, which bounds its tokens. Raises Validation."""
    length = request.headers.get("content-length", "")
    if length.isdecimal():
        return int(length)
    limits = get_state(request).metering.limits_of(caller_of(request.scope))
    if limits.has_rates:
        raise Validation("this key has limits: send the text with a Content-Length")
    return 0


def no_token(what: str) -> Validation:
    """Return what refuses a text without a token."""
    return Validation(f"{INPUT_ERROR}{what} has no token that the model knows")
