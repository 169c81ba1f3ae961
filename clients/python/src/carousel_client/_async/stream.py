"""A streamed completion."""

from types import TracebackType
from typing import Self

from carousel_client._async.transport import AsyncTransport
from carousel_client.responses import GenerationResult, Token
from carousel_client.resumable_stream import ResumableStream


class AsyncStream:
    """Iterate over the tokens of a completion, once; then `result` is the whole completion.

    For one thread or task. It is closed by its last token, by a `with` block, or by `close`.
    """

    def __init__(self, transport: AsyncTransport, state: ResumableStream) -> None:
        self._state, self._tokens = state, transport.follow(state)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        return await anext(self._tokens)

    @property
    def text(self) -> str:
        """The text received so far."""
        return self._state.text

    @property
    def result(self) -> GenerationResult:
        """The whole completion.

        Raises:
            LookupError: the stream has not reached its end, or had no events.

        """
        if self._state.result is not None:
            return self._state.result
        if self._state.is_finished:
            raise LookupError("the stream had no events")
        raise LookupError("the stream has not reached its end")

    async def close(self) -> None:
        """Close the connection. Does nothing if the stream has ended."""
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
