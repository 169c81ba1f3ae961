"""What streams have in common: they are read once, and can be closed before their end."""

from typing import Generic, Self, TypeVar

from carousel_client._async.transport import AsyncTransport
from carousel_client.resumable import Resumable

T = TypeVar("T")


class AsyncTokenStream(Generic[T]):
    """Iterate over the tokens of a reply, once. For one thread or task.

    It is closed by its last token, by a `with` block, or by `close`.
    """

    def __init__(self, transport: AsyncTransport, state: Resumable[T]) -> None:
        self._tokens = transport.follow(state)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await anext(self._tokens)

    async def close(self) -> None:
        """Close the connection. Does nothing if the stream has ended."""
        await self._tokens.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
