"""The client that waits."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, Unpack

from service.client import calls
from service.client.calls import PAGE_CHARACTERS, OnDisconnect, Seeds
from service.client.link import Link
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
from service.client.stream import Stream
from service.client.training import Training

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_S = 60.0


class Client:
    """A client of the server at `url`. Threads may share it.

    A call is tried for `timeout_s` in all; a stream is given up when it has not gone on for as
    long. Tried again are requests that did not arrive, refusals that pass (429, 503, 409
    `session_busy`), and lost replies where a repetition cannot do the same thing twice: every turn
    of a session carries a key of its own. `headers` go with every request.

    Raises, as everything here: `CarouselError`'s subclasses, see `service.client.errors`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._link = Link(url, timeout_s, headers or {})
        self.sessions = Sessions(self._link)
        self.models = ModelStore(self._link)
        self.training = Training(self._link)

    def generate(
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
        return self._link.do(calls.generate(request), timeout_s)

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
    ) -> Stream:
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
        return Stream(self._link, Reading(request, session_id, timeout_s or self._link.timeout_s))

    def tokenize(self, text: str, model: str | None = None) -> tuple[TextToken, ...]:
        """The tokens of a text."""
        return self._link.do(calls.tokenize(text, model))

    def detokenize(self, ids: Sequence[int], model: str | None = None) -> str:
        """The text of tokens."""
        return self._link.do(calls.detokenize(ids, model))

    def score(
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
        return self._link.do(call, timeout_s)

    def is_ready(self) -> bool:
        """Whether the server would take a generation now. Asks once, and raises nothing."""
        return self._link.is_well(calls.is_ready())

    def info(self) -> Info:
        """What the server says of itself."""
        return self._link.do(calls.info())

    def close(self) -> None:
        """Close every connection."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Sessions:
    """The sessions of a server; `generate` and `stream` with a `session_id` continue one."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def create(
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
        return self._link.do(call, timeout_s)

    def get(self, session_id: str) -> SessionState:
        """A session as it stands."""
        return self._link.do(calls.get_session(session_id))

    def delete(self, session_id: str) -> None:
        """Remove a session; its turn ends, if one runs."""
        self._link.do(calls.delete_session(session_id))

    def text(self, session_id: str, first: int = 0) -> str:
        """All that a session has consumed and said, from a position on."""
        pages = []
        while True:
            page, position = self._link.do(calls.session_text(session_id, first))
            pages.append(page)
            if position - first < PAGE_CHARACTERS:
                return "".join(pages)
            first = position

    def append(
        self,
        session_id: str,
        text: str,
        expected_position: int | None = None,
        timeout_s: float | None = None,
    ) -> SessionState:
        """Feed a session without generating."""
        return self._link.do(calls.append(session_id, text, expected_position), timeout_s)

    def fork(
        self, session_id: str, n: int = 1, at: int | None = None, seeds: Seeds = "derive"
    ) -> tuple[SessionState, ...]:
        """Make `n` sessions that go on from here, or from an earlier position, each on its own."""
        return self._link.do(calls.fork(session_id, n, at, seeds))

    def rewind(self, session_id: str, to: int) -> SessionState:
        """Cut a session back to how it was at a position. A lost reply is not asked for again."""
        return self._link.do(calls.rewind(session_id, to))

    def cancel(self, session_id: str, turn: int | None = None) -> SessionState:
        """End the turn that runs, at what it has said; with `turn` only that one.

        Harmless where none runs. Without `turn` a lost reply is not asked for again.
        """
        return self._link.do(calls.cancel_turn(session_id, turn))

    def export(self, session_id: str) -> bytes:
        """All of a session as signed bytes."""
        return self._link.do(calls.export_session(session_id))

    def import_(self, exported: bytes) -> SessionState:
        """Make a session of one that was exported here or on a server with the same secret."""
        return self._link.do(calls.import_session(exported))

    def events(
        self, session_id: str, after: str | None = None, timeout_s: float | None = None
    ) -> Stream:
        """Follow the running or last turn after one of its events (a token's `event_id`)."""
        request = calls.events(session_id, after)
        return Stream(self._link, Reading(request, session_id, timeout_s or self._link.timeout_s))


class ModelStore:
    """The models of a server. A call waits for ten minutes at least: models are large."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def list(self) -> Models:
        """Every stored version, and the aliases."""
        return self._link.do(calls.list_models())

    def load(self, ref: str, precision: Literal["float32", "int8"] | None = None) -> Model:
        """Load a stored version; one that is loaded serves until the new one is ready."""
        return self._link.do(calls.load_model(ref, precision))

    def unload(self, ref: str) -> Model:
        """Take a model out of memory when what runs on it has ended."""
        return self._link.do(calls.unload_model(ref))

    def delete(self, ref: str) -> None:
        """Remove a stored version that is neither loaded nor aliased."""
        self._link.do(calls.delete_model(ref))

    def import_(self, source: str, name: str, **options: Unpack[ImportOptions]) -> Model:
        """Import a checkpoint that lies under the server's import folder, and load it.

        A lost reply is not asked for again: `list` says what has become of it.
        """
        return self._link.do(calls.import_model(source, name, options))

    def set_alias(self, alias: str, ref: str) -> Mapping[str, str]:
        """Let new requests for an alias go to a model; return every alias."""
        return self._link.do(calls.set_alias(alias, ref))
