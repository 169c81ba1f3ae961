# Generated from ../_async: change that, and run `make client-sync`.
"""The connections to one server."""

import time
from collections.abc import Generator, Mapping
from typing import TypeVar

import httpx2

from carousel_client.errors import error_from_response
from carousel_client.request import Parser, Request
from carousel_client.resumable import Resumable
from carousel_client.retry_policy import LONG_TIMEOUT_S, RetryPolicy

T = TypeVar("T")

# A proxy that compresses a stream delays its events until a block is full.
_STREAM_HEADERS = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}


class Transport:
    """Send requests to one server, again where the retry policy allows it.

    `Transport` may be shared by threads; `AsyncTransport` is for one event loop.
    """

    def __init__(self, url: str, timeout_s: float, headers: Mapping[str, str]) -> None:
        self.timeout_s = timeout_s
        self.long_timeout_s = max(timeout_s, LONG_TIMEOUT_S)
        self._http = httpx2.Client(base_url=url, headers=headers)

    def execute(self, request: Request, parse: Parser[T], timeout_s: float | None = None) -> T:
        """Send a request and parse its JSON response. Raises `carousel_client.errors`."""
        return request.parsed(self.send(request, timeout_s), parse)

    def send(self, request: Request, timeout_s: float | None = None) -> bytes:
        """Send a request and return the body of its response. Raises `carousel_client.errors`."""
        policy = RetryPolicy(timeout_s or self.timeout_s)
        while True:
            try:
                response = self._http.request(**request.arguments(), timeout=policy.timeout())
            except httpx2.TransportError as error:
                time.sleep(policy.delay_after_disconnect(request, error))
                continue
            status = response.status_code
            if response.is_success or policy.is_deleted(request, status):
                return response.content
            status_error = error_from_response(status, response.headers, response.content)
            time.sleep(policy.delay_after_status(request, status_error))

    def is_success(self, request: Request) -> bool:
        """Whether the first attempt of a request succeeds. Raises nothing."""
        try:
            response = self._http.request(**request.arguments(), timeout=self.timeout_s)
        except httpx2.TransportError:
            return False
        return response.is_success

    def follow(self, stream: Resumable[T]) -> Generator[T, None]:
        """Yield the events of a stream, over as many connections as it takes."""
        while not stream.is_finished:
            try:
                with self._http.stream(
                    **stream.request.arguments(_STREAM_HEADERS), timeout=stream.timeout
                ) as response:
                    if stream.start_response(response.status_code, response.headers):
                        for chunk in response.iter_bytes():
                            for event in stream.feed(chunk):
                                yield event
                        delay_s = stream.delay_after_disconnect(None)
                    else:
                        content = response.read()
                        delay_s = stream.delay_after_status(
                            response.status_code, response.headers, content
                        )
            except httpx2.TransportError as error:
                delay_s = stream.delay_after_disconnect(error)
            if not stream.is_finished:
                time.sleep(delay_s)

    def close(self) -> None:
        """Close every connection."""
        self._http.close()
