"""The sessions of a server."""

from carousel_client import operations
from carousel_client._async.stream import AsyncStream
from carousel_client._async.transport import AsyncTransport
from carousel_client.operations import PAGE_CHARACTERS, Seeds
from carousel_client.responses import SessionState
from carousel_client.resumable_stream import ResumableStream


class AsyncSessionsAPI:
    """Create, read, change and delete sessions; `generate` with a `session_id` adds a turn."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self,
        *,
        model: str | None = None,
        session_id: str | None = None,
        text: str = "",
        ttl_s: int | None = None,
        seed: int | None = None,
        timeout_s: float | None = None,
    ) -> SessionState:
        """Create a session that begins with `text`.

        With a `session_id` a lost response is not retried: the session may exist already.
        """
        operation = operations.create_session(
            model=model, session_id=session_id, text=text, ttl_s=ttl_s, seed=seed
        )
        return await self._transport.execute(operation, timeout_s)

    async def get(self, session_id: str) -> SessionState:
        """Return the state of a session."""
        return await self._transport.execute(operations.get_session(session_id))

    async def delete(self, session_id: str) -> None:
        """Delete a session, and cancel its turn if one runs."""
        await self._transport.execute(operations.delete_session(session_id))

    async def text(self, session_id: str, start: int = 0) -> str:
        """Return a session's text, of inputs and completions, from a position to the end."""
        pages = []
        while True:
            operation = operations.session_text(session_id, start)
            page, position = await self._transport.execute(operation)
            pages.append(page)
            if position - start < PAGE_CHARACTERS:
                return "".join(pages)
            start = position

    async def append(
        self,
        session_id: str,
        text: str,
        expected_position: int | None = None,
        timeout_s: float | None = None,
    ) -> SessionState:
        """Append a text to a session without generating."""
        operation = operations.append(session_id, text, expected_position)
        return await self._transport.execute(operation, timeout_s)

    async def fork(
        self, session_id: str, n: int = 1, at: int | None = None, seeds: Seeds = "derive"
    ) -> tuple[SessionState, ...]:
        """Create `n` sessions that continue from this one's end, or from the position `at`."""
        return await self._transport.execute(operations.fork(session_id, n, at, seeds))

    async def rewind(self, session_id: str, to: int) -> SessionState:
        """Return a session to an earlier position. A lost response is not retried."""
        return await self._transport.execute(operations.rewind(session_id, to))

    async def cancel(self, session_id: str, turn: int | None = None) -> SessionState:
        """Cancel the running turn, or only the one with this number; its text so far stays.

        Does nothing if it is not running. Without `turn` a lost response is not retried.
        """
        return await self._transport.execute(operations.cancel_turn(session_id, turn))

    async def export(self, session_id: str) -> bytes:
        """Export a session as signed bytes."""
        return await self._transport.execute(operations.export_session(session_id))

    async def import_(self, exported: bytes) -> SessionState:
        """Create a session from one that was exported by a server with the same secret."""
        return await self._transport.execute(operations.import_session(exported))

    def events(
        self, session_id: str, after: str | None = None, timeout_s: float | None = None
    ) -> AsyncStream:
        """Stream the running or last turn, after the event with this id (a token's `event_id`)."""
        request = operations.session_events(session_id, after)
        state = ResumableStream(request, session_id, timeout_s or self._transport.timeout_s)
        return AsyncStream(self._transport, state)
