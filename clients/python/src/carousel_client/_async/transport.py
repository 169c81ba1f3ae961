"""The connections to one server."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import TypeVar

import httpx2

from carousel_client.errors import error_from_response
from carousel_client.request import Parser, Request
from carousel_client.resumable import Resumable
from carousel_client.retry_policy import LONG_TIMEOUT_S, RetryPolicy

T = TypeVar("T")

# A proxy that compresses a stream delays its events until a block is full.
_STREAM_HEADERS = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}


class AsyncTransport:
    """Send requests to one server, again where the retry policy allows it.

    `Transport` may be shared by threads; `AsyncTransport` is for one event loop.
    """

    def __init__(self, url: str, timeout_s: float, headers: Mapping[str, str]) -> None:
        self.timeout_s = timeout_s
        self.long_timeout_s = max(timeout_s, LONG_TIMEOUT_S)
        self._http = httpx2.AsyncClient(base_url=url, headers=headers)

    async def execute(
        self, request: Request, parse: Parser[T], timeout_s: float | None = None
    ) -> T:
        """Send a request and parse its JSON response. Raises `carousel_client.errors`."""
        return request.parsed(await self.send(request, timeout_s), parse)

    async def send(self, request: Request, timeout_s: float | None = None) -> bytes:
        """Send a request and return the body of its response. Raises `carousel_client.errors`."""
        policy = RetryPolicy(timeout_s or self.timeout_s)
        while True:
            try:
                response = await self._http.request(**request.arguments(), timeout=policy.timeout())
            except httpx2.TransportError as error:
                await asyncio.sleep(policy.delay_after_disconnect(request, error))
                continue
            status = response.status_code
            if response.is_success or policy.is_deleted(request, status):
                return response.content
            status_error = error_from_response(status, response.headers, response.content)
            await asyncio.sleep(policy.delay_after_status(request, status_error))

    async def is_success(self, request: Request) -> bool:
        """Whether the first attempt of a request succeeds. Raises nothing."""
        try:
            response = await self._http.request(**request.arguments(), timeout=self.timeout_s)
        except httpx2.TransportError:
            return False
        return response.is_success

    async def follow(self, stream: Resumable[T]) -> AsyncGenerator[T, None]:
        """Yield the events of a stream, over as many connections as it takes."""
        while not stream.is_finished:
            try:
                async with self._http.stream(
                    **stream.request.arguments(_STREAM_HEADERS), timeout=stream.timeout
                ) as response:
                    if stream.start_response(response.status_code, response.headers):
                        async for chunk in response.aiter_bytes():
                            for event in stream.feed(chunk):
                                yield event
                        delay_s = stream.delay_after_disconnect(None)
                    else:
                        content = await response.aread()
                        delay_s = stream.delay_after_status(
                            response.status_code, response.headers, content
                        )
            except httpx2.TransportError as error:
                delay_s = stream.delay_after_disconnect(error)
            if not stream.is_finished:
                await asyncio.sleep(delay_s)

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()
