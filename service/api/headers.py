"""What generate routes of every family read from a request's head."""

from fastapi import Request

from service.errors import Validation


def header(http: Request, name: bytes) -> str | None:
    """A header's value, by its name in lower case."""
    value = dict(http.scope["headers"]).get(name)  # Starlette's own look takes five times as long
    return None if value is None else value.decode("latin-1")


def session_id_of(http: Request, in_body: str | None) -> str | None:
    """The session that a request names, in its body or in the header X-Session-Id.

    Raises:
        Validation: both do, and differ.

    """
    named = header(http, b"x-session-id")
    if named is not None and in_body is not None and named != in_body:
        raise Validation(
            "the header X-Session-Id and `session_id` name different sessions", "session_id"
        )
    return in_body if named is None else named
