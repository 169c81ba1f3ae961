"""Every error that the client raises, on one page.

    CarouselError
    ├── Unreachable           no reply, for as long as the client was to try
    ├── StreamBroken          a stream without a session broke off
    ├── UnknownReply          what answers is no Carousel
    └── Refused               the server said no, by its status
        ├── BadRequest        400 405 413 431
        ├── NotAllowed        401 403
        ├── NotFound          404   model_not_found session_not_found job_not_found …
        ├── Conflict          409   session_busy session_exists model_in_use model_unloaded …
        ├── SessionLost       410
        ├── PositionMismatch  412
        ├── Invalid           422   validation unknown_character bad_checkpoint key_reused
        ├── GenerationFailed  424
        ├── Overloaded        429   overloaded rate_limited
        ├── Unavailable       503   model_not_ready draining store_unavailable
        └── NoRoom            507   memory_budget_exceeded store_full

The families are the statuses; `error_type` is the server's own code, which tells their members
apart. Source: the last table of docs/reference/http.md.
"""

import json
from collections.abc import Mapping

_STATUSES = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "model_not_found": 404,
    "session_not_found": 404,
    "session_busy": 409,
    "session_exists": 409,
    "state_model_mismatch": 409,
    "model_in_use": 409,
    "model_unloaded": 409,
    "session_lost": 410,
    "position_mismatch": 412,
    "too_large": 413,
    "validation": 422,
    "unknown_character": 422,
    "key_reused": 422,
    "generation": 424,
    "overloaded": 429,
    "rate_limited": 429,
    "model_not_ready": 503,
    "draining": 503,
    "store_unavailable": 503,
    "memory_budget_exceeded": 507,
    "store_full": 507,
}
"""What the condition's status is where a stream, which began with 200, ends with it."""

_LONGEST_MESSAGE = 500
_SERVER_MISTAKE = 500


class CarouselError(Exception):
    """Whatever this client raises. `text` is what a stream had said before it."""

    text: str = ""


class Unreachable(CarouselError):
    """No reply came, though the client tried for as long as it was to."""


class StreamBroken(CarouselError):
    """A stream without a session broke off, and nothing can go on with it."""


class UnknownReply(CarouselError):
    """The reply is not what Carousel says: perhaps something else answers at this address."""


class Refused(CarouselError):
    """The server's own error: `message` for people, `error_type` and `status` for programs."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        error_type: str,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.error_type = message, status, error_type
        self.request_id, self.retry_after_s = request_id, retry_after_s

    def __str__(self) -> str:
        return f"{self.message} ({self.status} {self.error_type})"

    @property
    def is_passing(self) -> bool:
        """Whether the same request may do in a moment."""
        return self.status in {429, 503} or self.error_type == "session_busy"


class BadRequest(Refused):
    """The request cannot be read, or is too large to be."""


class NotAllowed(Refused):
    """Who asks is not known, or has not the scope that this takes."""


class NotFound(Refused):
    """There is no such model, session, job or corpus."""


class Conflict(Refused):
    """What is asked for does not go together with how things stand; `error_type` says what."""


class SessionLost(Refused):
    """The session was there, and is there no more."""


class PositionMismatch(Refused):
    """The session is not where the request expects it."""


class Invalid(Refused):
    """A value is outside its limits; the message names the field, the limit and the value."""


class GenerationFailed(Refused):
    """The turn had begun and ended before it was complete."""


class Overloaded(Refused):
    """The server's queue is full, and was for as long as the client was to try."""


class Unavailable(Refused):
    """The model, the server or its store is not ready, and was not for as long."""


class NoRoom(Refused):
    """The server's memory or its store has no room for it."""


_FAMILIES: dict[int, type[Refused]] = {
    400: BadRequest,
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    405: BadRequest,
    409: Conflict,
    410: SessionLost,
    412: PositionMismatch,
    413: BadRequest,
    422: Invalid,
    424: GenerationFailed,
    429: Overloaded,
    431: BadRequest,
    503: Unavailable,
    507: NoRoom,
}


def refusal_of_reply(status: int, headers: Mapping[str, str], content: bytes) -> Refused:
    """The error that a reply is; whatever else answers there may have its own shape."""
    try:
        body = json.loads(content)
        message, error_type = str(body["error"]), str(body["error_type"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message = content[:_LONGEST_MESSAGE].decode(errors="replace") or "no reason was given"
        error_type = "unknown"
    return _FAMILIES.get(status, Refused)(
        message,
        status=status,
        error_type=error_type,
        request_id=headers.get("x-request-id"),
        retry_after_s=_seconds(headers.get("retry-after")),
    )


def refusal_of_event(body: Mapping[str, object], request_id: str | None) -> Refused:
    """The error that a stream's last event is."""
    error_type = str(body.get("error_type"))
    status = _STATUSES.get(error_type, _SERVER_MISTAKE)
    return _FAMILIES.get(status, Refused)(
        str(body["error"]), status=status, error_type=error_type, request_id=request_id
    )


def _seconds(text: str | None) -> float | None:
    """A Retry-After in seconds; one that is a date is not looked at."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
