"""A body that is a text of any length, read as it arrives."""

import codecs
from collections.abc import AsyncGenerator

from fastapi import Request

from service.api.caller import caller_of
from service.api.state import get_state
from service.errors import Validation


async def texts_of(request: Request) -> AsyncGenerator[tuple[str, bool], None]:
    """Yield each part of a body in UTF-8, and whether it is the last. Raises Validation."""
    decoder, size_bytes = codecs.getincrementaldecoder("utf-8")(), 0
    async for piece in request.stream():  # an empty one is the last
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
