"""Reading a request: its headers, its media type, a body that is not JSON, its disconnect."""

import asyncio
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from fastapi import HTTPException, Request
from starlette.types import Receive

from service.api.seed_pool import SeedPool
from service.errors import TooLarge, Validation

WATCH_AFTER_S = 0.02
"""How long a reply takes before its client is watched for a disconnect."""

TEXT, BINARY = "text/plain", "application/octet-stream"
SEED = "seed"  # in the state of a batch's line: what its route takes where the body has none


def header(http: Request, name: bytes) -> str | None:
    """Return a header's value; `name` is in lower case."""
    value = dict(http.scope["headers"]).get(name)  # a fifth of the time of Starlette's own lookup
    return None if value is None else value.decode("latin-1")


def session_id_of(http: Request, in_body: str | None) -> str | None:
    """Return the session named in the body or in X-Session-Id. Raises Validation if they differ."""
    in_header = header(http, b"x-session-id")
    if in_header is not None and in_body is not None and in_header != in_body:
        raise Validation(
            "the header X-Session-Id and `session_id` name different sessions", "session_id"
        )
    return in_body if in_header is None else in_header


def media_type(http: Request, default: str) -> str:
    """Return the Content-Type without its parameters, in lower case."""
    return http.headers.get("content-type", default).partition(";")[0].strip().lower()


def check_media_type(http: Request, *allowed: str, expected: str) -> None:
    """Raise a 415 if the body's media type is not allowed; without one it is the first."""
    found = media_type(http, allowed[0])
    if found not in allowed:
        raise HTTPException(415, f"{expected}, not {found[:80]}")


def raw_body(kind: str) -> dict[str, Any]:
    """Return the OpenAPI description of a body that the route reads itself.

    FastAPI would parse a body with a JSON media type in the event loop.
    """
    return {"requestBody": {"required": True, "content": raw_content(kind)}}


def raw_content(kind: str) -> dict[str, Any]:
    """Return the OpenAPI description of content that is text or bytes."""
    binary = {"format": "binary"} if kind == BINARY else {}
    return {kind: {"schema": {"type": "string"} | binary}}


@contextmanager
def disk_full_as_too_large(what: str) -> Iterator[None]:
    """Raise TooLarge where the disk is too full to store a body."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise TooLarge(f"the server's disk is too full for {what}") from error


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has disconnected; its body has been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


class DisconnectWatch:
    """Calls `on_disconnect` when the client disconnects while the block runs.

    The watch begins `WATCH_AFTER_S` after the block: most replies need none. A client that has
    disconnected before is noticed then. For the event loop.
    """

    def __init__(self, receive: Receive, on_disconnect: Callable[[], object]) -> None:
        self._receive, self._on_disconnect = receive, on_disconnect
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        await wait_for_disconnect(self._receive)
        self._on_disconnect()


@contextmanager
def cancelled_on_disconnect(http: Request, cancel: Callable[[], None]) -> Iterator[None]:
    """Call `cancel` when the client disconnects, and when the block ends."""
    try:
        with DisconnectWatch(http.receive, cancel):
            yield
    finally:
        cancel()


def drawn_seeds(http: Request, pool: SeedPool, n: int) -> list[int]:
    """Return seeds for `n` prompts of a request that gives none.

    They are random, but for the lines of a batch, which are answered the same again.
    """
    first = http.scope["state"].get(SEED)
    if first is None:
        return [pool.draw() for _ in range(n)]
    return [(first + i) % 2**64 for i in range(n)]
