"""A text as it is said, token by token."""

from types import TracebackType
from typing import Self

from service.client.link import AsyncLink, Link
from service.client.reading import Reading
from service.client.replies import Generation, Token


class Stream:
    """An iterator of tokens; then `end` has the whole. For one thread, and to be read once.

    Closed with `with` or `close`, or by reading it to its end.
    """

    def __init__(self, link: Link, reading: Reading) -> None:
        self._reading, self._tokens = reading, link.follow(reading)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Token:
        return next(self._tokens)

    @property
    def text(self) -> str:
        """All that it has said so far."""
        return self._reading.text

    @property
    def end(self) -> Generation:
        """The whole of it.

        Raises:
            LookupError: it has not come to its end, or nothing was to come.

        """
        return _end(self._reading)

    def close(self) -> None:
        """Read no further."""
        self._tokens.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncStream:
    """As Stream, for `async for` and `async with`."""

    def __init__(self, link: AsyncLink, reading: Reading) -> None:
        self._reading, self._tokens = reading, link.follow(reading)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        return await anext(self._tokens)

    @property
    def text(self) -> str:
        """As Stream's."""
        return self._reading.text

    @property
    def end(self) -> Generation:
        """As Stream's."""
        return _end(self._reading)

    async def close(self) -> None:
        """As Stream's."""
        await self._tokens.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _end(reading: Reading) -> Generation:
    if reading.generation is None:
        reason = "nothing was to come" if reading.is_over else "the stream has not come to its end"
        raise LookupError(reason)
    return reading.generation
