"""The interface between a transport and a stream that outlives its connections."""

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

import httpx2

from carousel_client.operations import Request

E_co = TypeVar("E_co", covariant=True)


class Resumable(Protocol[E_co]):
    """The state of a stream over all its connections. It does no I/O: a transport drives it."""

    @property
    def is_finished(self) -> bool:
        """Whether no request is left to send."""
        ...

    @property
    def request(self) -> Request:
        """The request to send next."""
        ...

    @property
    def timeout(self) -> httpx2.Timeout:
        """The limits of the next connection."""
        ...

    def start_response(self, status: int, headers: Mapping[str, str]) -> bool:
        """Take a response's head; return whether its body is a stream of events."""
        ...

    def feed(self, chunk: bytes) -> Iterator[E_co]:
        """Yield the events that a chunk of the body completes."""
        ...

    def delay_after_status(self, status: int, headers: Mapping[str, str], content: bytes) -> float:
        """Return the seconds to wait after a response without a stream. Raises its error."""
        ...

    def delay_after_disconnect(self, error: Exception | None) -> float:
        """Return the seconds to wait after a connection has ended. Raises where it is final."""
        ...
