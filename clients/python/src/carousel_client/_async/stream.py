"""A streamed completion."""

from typing import Self

from carousel_client._async.transport import AsyncTransport
from carousel_client.request import Request
from carousel_client.responses import GenerationResult, Token
from carousel_client.resumable import ResumableStream


class AsyncStream:
    """Iterate over the tokens of a completion, once; then `result` is the whole completion.

    For one thread or task. It is closed by its last token, by a `with` block, or by `close`.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        request: Request,
        session_id: str | None,
        timeout_s: float | None,
    ) -> None:
        self._state = ResumableStream(request, session_id, timeout_s or transport.timeout_s)
        self._tokens = transport.follow(self._state)

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
        """The whole completion. Raises LookupError before its end, or if it had no events."""
        if self._state.result is None:
            reason = "had no events" if self._state.is_finished else "has not reached its end"
            raise LookupError(f"the stream {reason}")
        return self._state.result

    async def close(self) -> None:
        """Close the connection. Does nothing if the stream has ended."""
        await self._tokens.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
