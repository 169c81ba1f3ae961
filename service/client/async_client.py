"""The client for `async`: the same calls by the same names."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, Unpack

from service.client import calls
from service.client.calls import PAGE_CHARACTERS, OnDisconnect, Seeds
from service.client.client import DEFAULT_TIMEOUT_S, DEFAULT_URL
from service.client.link import AsyncLink
from service.client.parameters import ImportOptions, Parameters
from service.client.reading import Reading
from service.client.replies import (
    Generation,
    Info,
    Model,
    Models,
    Score,
    SessionState,
    TextToken,
)
from service.client.stream import AsyncStream
from service.client.training import AsyncTraining


class AsyncClient:
    """As Client, for one event loop; to be closed by `async with` or `close`."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._link = AsyncLink(url, timeout_s, headers or {})
        self.sessions = AsyncSessions(self._link)
        self.models = AsyncModelStore(self._link)
        self.training = AsyncTraining(self._link)

    async def generate(
        self,
        inputs: str,
        *,
        model: str | None = None,
        session_id: str | None = None,
        expected_position: int | None = None,
        on_disconnect: OnDisconnect = "continue",
        timeout_s: float | None = None,
        **parameters: Unpack[Parameters],
    ) -> Generation:
        """Generate a text and wait for all of it; with `session_id` as the session's next turn.

        `on_disconnect="cancel"` lets a lost connection end the turn, and then it is not resumed.
        """
        request = calls.turn(
            inputs,
            parameters,
            model=model,
            session_id=session_id,
            expected_position=expected_position,
            on_disconnect=on_disconnect,
            is_stream=False,
        )
        return await self._link.do(calls.generate(request), timeout_s)

    def stream(
        self,
        inputs: str,
        *,
        model: str | None = None,
        session_id: str | None = None,
        expected_position: int | None = None,
        on_disconnect: OnDisconnect = "continue",
        timeout_s: float | None = None,
        **parameters: Unpack[Parameters],
    ) -> AsyncStream:
        """Generate a text and read it as it is said; reading the first token sends the request.

        In a session a broken connection is made again and every token comes once, in order; a turn
        that is not read to its end goes on without its reader, unless `on_disconnect="cancel"`.
        Without a session a connection that breaks after the first token is a StreamBroken.
        """
        request = calls.turn(
            inputs,
            parameters,
            model=model,
            session_id=session_id,
            expected_position=expected_position,
            on_disconnect=on_disconnect,
            is_stream=True,
        )
        return AsyncStream(
            self._link, Reading(request, session_id, timeout_s or self._link.timeout_s)
        )

    async def tokenize(self, text: str, model: str | None = None) -> tuple[TextToken, ...]:
        """The tokens of a text."""
        return await self._link.do(calls.tokenize(text, model))

    async def detokenize(self, ids: Sequence[int], model: str | None = None) -> str:
        """The text of tokens."""
        return await self._link.do(calls.detokenize(ids, model))

    async def score(
        self,
        text: str,
        *,
        model: str | None = None,
        session_id: str | None = None,
        details: bool = False,
        timeout_s: float | None = None,
    ) -> Score:
        """How likely a model finds a text; with `session_id` as what the session says next.

        A text may have any length; with `details`, which gives every token, 100,000 characters.
        """
        call = calls.score(text, model=model, session_id=session_id, details=details)
        return await self._link.do(call, timeout_s)

    async def is_ready(self) -> bool:
        """Whether the server would take a generation now. Asks once, and raises nothing."""
        return await self._link.is_well(calls.is_ready())

    async def info(self) -> Info:
        """What the server says of itself."""
        return await self._link.do(calls.info())

    async def close(self) -> None:
        """Close every connection."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class AsyncSessions:
    """The sessions of a server; `generate` and `stream` with a `session_id` continue one."""

    def __init__(self, link: AsyncLink) -> None:
        self._link = link

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
        """Make a session, and feed it a text if there is one.

        With an id of your own a lost reply is not asked for again, for the session may be there.
        """
        call = calls.create_session(
            model=model, session_id=session_id, text=text, ttl_s=ttl_s, seed=seed
        )
        return await self._link.do(call, timeout_s)

    async def get(self, session_id: str) -> SessionState:
        """A session as it stands."""
        return await self._link.do(calls.get_session(session_id))

    async def delete(self, session_id: str) -> None:
        """Remove a session; its turn ends, if one runs."""
        await self._link.do(calls.delete_session(session_id))

    async def text(self, session_id: str, first: int = 0) -> str:
        """All that a session has consumed and said, from a position on."""
        pages = []
        while True:
            page, position = await self._link.do(calls.session_text(session_id, first))
            pages.append(page)
            if position - first < PAGE_CHARACTERS:
                return "".join(pages)
            first = position

    async def append(
        self,
        session_id: str,
        text: str,
        expected_position: int | None = None,
        timeout_s: float | None = None,
    ) -> SessionState:
        """Feed a session without generating."""
        return await self._link.do(calls.append(session_id, text, expected_position), timeout_s)

    async def fork(
        self, session_id: str, n: int = 1, at: int | None = None, seeds: Seeds = "derive"
    ) -> tuple[SessionState, ...]:
        """Make `n` sessions that go on from here, or from an earlier position, each on its own."""
        return await self._link.do(calls.fork(session_id, n, at, seeds))

    async def rewind(self, session_id: str, to: int) -> SessionState:
        """Cut a session back to how it was at a position. A lost reply is not asked for again."""
        return await self._link.do(calls.rewind(session_id, to))

    async def cancel(self, session_id: str, turn: int | None = None) -> SessionState:
        """End the turn that runs, at what it has said; with `turn` only that one.

        Harmless where none runs. Without `turn` a lost reply is not asked for again.
        """
        return await self._link.do(calls.cancel_turn(session_id, turn))

    async def export(self, session_id: str) -> bytes:
        """All of a session as signed bytes."""
        return await self._link.do(calls.export_session(session_id))

    async def import_(self, exported: bytes) -> SessionState:
        """Make a session of one that was exported here or on a server with the same secret."""
        return await self._link.do(calls.import_session(exported))

    def events(
        self, session_id: str, after: str | None = None, timeout_s: float | None = None
    ) -> AsyncStream:
        """Follow the running or last turn after one of its events (a token's `event_id`)."""
        request = calls.events(session_id, after)
        return AsyncStream(
            self._link, Reading(request, session_id, timeout_s or self._link.timeout_s)
        )


class AsyncModelStore:
    """The models of a server. A call waits for ten minutes at least: models are large."""

    def __init__(self, link: AsyncLink) -> None:
        self._link = link

    async def list(self) -> Models:
        """Every stored version, and the aliases."""
        return await self._link.do(calls.list_models())

    async def load(self, ref: str, precision: Literal["float32", "int8"] | None = None) -> Model:
        """Load a stored version; one that is loaded serves until the new one is ready."""
        return await self._link.do(calls.load_model(ref, precision))

    async def unload(self, ref: str) -> Model:
        """Take a model out of memory when what runs on it has ended."""
        return await self._link.do(calls.unload_model(ref))

    async def delete(self, ref: str) -> None:
        """Remove a stored version that is neither loaded nor aliased."""
        await self._link.do(calls.delete_model(ref))

    async def import_(self, source: str, name: str, **options: Unpack[ImportOptions]) -> Model:
        """Import a checkpoint that lies under the server's import folder, and load it.

        A lost reply is not asked for again: `list` says what has become of it.
        """
        return await self._link.do(calls.import_model(source, name, options))

    async def set_alias(self, alias: str, ref: str) -> Mapping[str, str]:
        """Let new requests for an alias go to a model; return every alias."""
        return await self._link.do(calls.set_alias(alias, ref))
