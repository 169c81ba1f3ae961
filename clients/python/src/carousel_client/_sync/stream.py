# Generated from ../_async: change that, and run `make client-sync`.
"""A streamed completion."""

from carousel_client._sync.token_stream import TokenStream
from carousel_client._sync.transport import Transport
from carousel_client.request import Request
from carousel_client.responses import GenerationResult, Token
from carousel_client.resumable import ResumableStream


class Stream(TokenStream[Token]):
    """Iterate over the tokens of a completion, once; then `result` is the whole completion.

    For one thread or task. It is closed by its last token, by a `with` block, or by `close`.
    """

    def __init__(
        self,
        transport: Transport,
        request: Request,
        session_id: str | None,
        timeout_s: float | None,
    ) -> None:
        self._state = ResumableStream(request, session_id, timeout_s or transport.timeout_s)
        super().__init__(transport, self._state)

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
