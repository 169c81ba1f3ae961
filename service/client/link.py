"""How calls are sent and tried again: once for callers that wait, once for `async` ones."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import httpx2

from service.client.attempts import Attempts
from service.client.calls import Call, Request
from service.client.errors import UnknownReply, refusal_of_reply

T = TypeVar("T")
E_co = TypeVar("E_co", covariant=True)

# A proxy that compresses a stream holds it back until it has enough.
_STREAM_HEADERS = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}


class Followed(Protocol[E_co]):
    """A stream of events, whatever they are, across all its connections; see `Reading`."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to send."""
        ...

    @property
    def request(self) -> Request:
        """What to send now."""
        ...

    @property
    def timeout(self) -> httpx2.Timeout:
        """How long a connection may say nothing."""
        ...

    def begin(self, status: int, headers: Mapping[str, str]) -> bool:
        """Take a reply's head; return whether its body is a stream."""
        ...

    def feed(self, piece: bytes) -> Iterator[E_co]:
        """The events that a piece of the body completes."""
        ...

    def refused(self, status: int, headers: Mapping[str, str], content: bytes) -> float:
        """How long to wait after a reply that was no stream."""
        ...

    def broken(self, loss: Exception | None) -> float:
        """How long to wait after a connection has ended before the stream did."""
        ...


class Link:
    """The way to one server. Threads may share it."""

    def __init__(self, url: str, timeout_s: float, headers: Mapping[str, str]) -> None:
        self.timeout_s = timeout_s
        self._http = httpx2.Client(base_url=url, headers=headers)

    def do(self, call: Call[T], timeout_s: float | None = None) -> T:
        """Carry out a call. Raises what `client.errors` has."""
        request, attempts = call.request, _attempts(call, timeout_s or self.timeout_s)
        while True:
            try:
                reply = self._http.request(**_sent(request), timeout=attempts.timeout())
            except httpx2.TransportError as loss:
                time.sleep(attempts.after_loss(request, loss))
                continue
            if reply.is_success or attempts.was_done_before(request, reply.status_code):
                return _read(call, reply)
            refusal = refusal_of_reply(reply.status_code, reply.headers, reply.content)
            time.sleep(attempts.after_refusal(request, refusal))

    def is_well(self, request: Request) -> bool:
        """Whether a request succeeds at its first attempt."""
        try:
            return self._http.request(**_sent(request), timeout=self.timeout_s).is_success
        except httpx2.TransportError:
            return False

    def follow(self, reading: Followed[T]) -> Generator[T, None, None]:
        """The events of a stream, across all the connections that it takes."""
        while not reading.is_over:
            try:
                with self._http.stream(
                    **_sent(reading.request, _STREAM_HEADERS), timeout=reading.timeout
                ) as reply:
                    if reading.begin(reply.status_code, reply.headers):
                        for piece in reply.iter_bytes():
                            yield from reading.feed(piece)
                        wait_s = reading.broken(None)
                    else:
                        content = reply.read()
                        wait_s = reading.refused(reply.status_code, reply.headers, content)
            except httpx2.TransportError as loss:
                wait_s = reading.broken(loss)
            if not reading.is_over:
                time.sleep(wait_s)

    def close(self) -> None:
        """Close every connection."""
        self._http.close()


class AsyncLink:
    """As Link, for one event loop."""

    def __init__(self, url: str, timeout_s: float, headers: Mapping[str, str]) -> None:
        self.timeout_s = timeout_s
        self._http = httpx2.AsyncClient(base_url=url, headers=headers)

    async def do(self, call: Call[T], timeout_s: float | None = None) -> T:
        """As Link's."""
        request, attempts = call.request, _attempts(call, timeout_s or self.timeout_s)
        while True:
            try:
                reply = await self._http.request(**_sent(request), timeout=attempts.timeout())
            except httpx2.TransportError as loss:
                await asyncio.sleep(attempts.after_loss(request, loss))
                continue
            if reply.is_success or attempts.was_done_before(request, reply.status_code):
                return _read(call, reply)
            refusal = refusal_of_reply(reply.status_code, reply.headers, reply.content)
            await asyncio.sleep(attempts.after_refusal(request, refusal))

    async def is_well(self, request: Request) -> bool:
        """As Link's."""
        try:
            reply = await self._http.request(**_sent(request), timeout=self.timeout_s)
        except httpx2.TransportError:
            return False
        return reply.is_success

    async def follow(self, reading: Followed[T]) -> AsyncGenerator[T, None]:
        """As Link's."""
        while not reading.is_over:
            try:
                async with self._http.stream(
                    **_sent(reading.request, _STREAM_HEADERS), timeout=reading.timeout
                ) as reply:
                    if reading.begin(reply.status_code, reply.headers):
                        async for piece in reply.aiter_bytes():
                            for event in reading.feed(piece):
                                yield event
                        wait_s = reading.broken(None)
                    else:
                        content = await reply.aread()
                        wait_s = reading.refused(reply.status_code, reply.headers, content)
            except httpx2.TransportError as loss:
                wait_s = reading.broken(loss)
            if not reading.is_over:
                await asyncio.sleep(wait_s)

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()


def _attempts(call: Call[T], timeout_s: float) -> Attempts:
    return Attempts(max(timeout_s, call.least_s))


def _sent(request: Request, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.path,
        "content": request.content,
        "headers": {**request.headers, **(headers or {})},
    }


def _read(call: Call[T], reply: httpx2.Response) -> T:
    try:
        return call.read(reply.content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnknownReply(
            f"the reply to {call.request.method} {call.request.path} is not one of Carousel's: "
            f"{reply.text[:200]!r}"
        ) from error
