# Generated from ../_async: change that, and run `make client-sync`.
"""What streams have in common: they are read once, and can be closed before their end."""

from typing import Generic, Self, TypeVar

from carousel_client._sync.transport import Transport
from carousel_client.resumable import Resumable

T = TypeVar("T")


class TokenStream(Generic[T]):
    """Iterate over the tokens of a reply, once. For one thread or task.

    It is closed by its last token, by a `with` block, or by `close`.
    """

    def __init__(self, transport: Transport, state: Resumable[T]) -> None:
        self._tokens = transport.follow(state)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return next(self._tokens)

    def close(self) -> None:
        """Close the connection. Does nothing if the stream has ended."""
        self._tokens.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
