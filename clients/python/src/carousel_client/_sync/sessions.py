# Generated from ../_async: change that, and run `make client-sync`.
"""The sessions of a server."""

from typing import Literal
from urllib.parse import urlencode

from carousel_client._sync.stream import Stream
from carousel_client._sync.transport import Transport
from carousel_client.request import BINARY, Request, events, url_path, with_json
from carousel_client.responses import SessionPage, SessionState

PAGE_CHARACTERS = 1_000_000  # the longest part of a session's text that one response has


class SessionsAPI:
    """Create, read, change and delete sessions; `generate` with a `session_id` adds a turn."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

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
        """Create a session that begins with `text`.

        With a `session_id` a lost response is not retried: the session may exist already.
        """
        body = {"model": model, "session_id": session_id, "ttl_s": ttl_s, "seed": seed}
        body["text"] = text or None
        request = with_json("POST", "/sessions", body, is_repeatable=session_id is None)
        return self._execute(request, timeout_s)

    def list(self, after: str | None = None, limit: int = 50) -> SessionPage:
        """Return a page of your sessions, the newest first; `next` of one is `after` of the next.

        Reading them here does not renew the time after which they expire.
        """
        query = urlencode({"limit": limit} | ({} if after is None else {"after": after}))
        return self._transport.execute(Request("GET", f"/sessions?{query}"), SessionPage.from_json)

    def get(self, session_id: str) -> SessionState:
        """Return the state of a session."""
        return self._execute(Request("GET", url_path("sessions", session_id)))

    def delete(self, session_id: str) -> None:
        """Delete a session, and cancel its turn if one runs."""
        self._transport.send(Request("DELETE", url_path("sessions", session_id)))

    def text(self, session_id: str, start: int = 0) -> str:
        """Return a session's text, of inputs and completions, from a position to the end."""
        path, pages = url_path("sessions", session_id, "text"), []
        while True:
            page, position = self._transport.execute(
                Request("GET", f"{path}?from={start}"),
                lambda body: (str(body["text"]), int(body["position"])),
            )
            pages.append(page)
            if position - start < PAGE_CHARACTERS:
                return "".join(pages)
            start = position

    def append(
        self,
        session_id: str,
        text: str,
        expected_position: int | None = None,
        timeout_s: float | None = None,
    ) -> SessionState:
        """Append a text to a session without generating."""
        path = url_path("sessions", session_id, "append")
        body = {"text": text, "expected_position": expected_position}
        return self._execute(with_json("POST", path, body, is_once=True), timeout_s)

    def fork(
        self,
        session_id: str,
        n: int = 1,
        at: int | None = None,
        seeds: Literal["derive", "same"] = "derive",
    ) -> tuple[SessionState, ...]:
        """Create `n` sessions that continue from this one's end, or from the position `at`."""
        path = url_path("sessions", session_id, "fork")
        return self._transport.execute(
            with_json("POST", path, {"n": n, "at": at, "seeds": seeds}),
            lambda body: SessionState.several(body["sessions"]),
        )

    def rewind(self, session_id: str, to: int) -> SessionState:
        """Return a session to an earlier position. A lost response is not retried."""
        path = url_path("sessions", session_id, "rewind")
        return self._execute(with_json("POST", path, {"to": to}, is_repeatable=False))

    def cancel(self, session_id: str, turn: int | None = None) -> SessionState:
        """Cancel the running turn, or only the one with this number; its text so far stays.

        Does nothing if it is not running. Without `turn` a lost response is not retried.
        """
        path = url_path("sessions", session_id, "cancel")
        query = "" if turn is None else f"?turn={turn}"
        return self._execute(Request("POST", path + query, is_repeatable=turn is not None))

    def export(self, session_id: str) -> bytes:
        """Export a session as signed bytes."""
        return self._transport.send(Request("GET", url_path("sessions", session_id, "state")))

    def import_(self, exported: bytes) -> SessionState:
        """Create a session from one that was exported by a server with the same secret."""
        return self._execute(Request("POST", "/sessions/import", exported, BINARY))

    def events(
        self, session_id: str, after: str | None = None, timeout_s: float | None = None
    ) -> Stream:
        """Stream the running or last turn, after the event with this id (a token's `event_id`)."""
        request = events(url_path("sessions", session_id, "events"), after)
        return Stream(self._transport, request, session_id, timeout_s)

    def _execute(self, request: Request, timeout_s: float | None = None) -> SessionState:
        return self._transport.execute(request, SessionState.from_json, timeout_s)
