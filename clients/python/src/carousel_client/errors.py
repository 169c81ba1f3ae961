"""Every error that the client raises.

A subclass of StatusError stands for a status; its `error_type` is the server's own code, which is
more specific. Source: the last table of docs/reference/http.md.
"""

import json
from collections.abc import Mapping

_STATUSES = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "cross_origin": 403,
    "model_not_found": 404,
    "session_not_found": 404,
    "job_not_found": 404,
    "corpus_not_found": 404,
    "file_not_found": 404,
    "batch_not_found": 404,
    "key_not_found": 404,
    "session_busy": 409,
    "session_exists": 409,
    "state_model_mismatch": 409,
    "model_in_use": 409,
    "corpus_in_use": 409,
    "job_not_over": 409,
    "model_unloaded": 409,
    "session_lost": 410,
    "position_mismatch": 412,
    "too_large": 413,
    "invalid_host": 421,
    "validation": 422,
    "unknown_character": 422,
    "bad_checkpoint": 422,
    "out_of_time": 422,
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
"""The status of each code, for an error event in a stream whose response began with 200."""

_MAX_MESSAGE_BYTES = 500
_INTERNAL_ERROR = 500


class CarouselClientError(Exception):
    """The base of the client's errors. `text` is the completion that was received before it."""

    text: str = ""


class Unreachable(CarouselClientError):
    """No response was received within the time limit, over all attempts."""


class StreamBroken(CarouselClientError):
    """A stream without a session was interrupted, and cannot be resumed."""


class UnexpectedResponse(CarouselClientError):
    """The response does not follow Carousel's API: another server may have sent it."""


class StatusError(CarouselClientError):
    """An error response: `message` for people, `error_type` and `status` for programs."""

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
    def is_transient(self) -> bool:
        """Whether the same request may succeed a moment later."""
        return self.status in {429, 503} or self.error_type == "session_busy"


class BadRequest(StatusError):
    """The request is malformed or too large."""


class NotAllowed(StatusError):
    """The credentials are missing, unknown, or lack the scope that the request needs."""


class NotFound(StatusError):
    """The model, session, job or corpus does not exist."""


class Conflict(StatusError):
    """The request conflicts with the current state of its target; see `error_type`."""


class SessionLost(StatusError):
    """The session existed and no longer exists."""


class PositionMismatch(StatusError):
    """The session is not at the position that the request expects."""


class Invalid(StatusError):
    """A value is outside its limits; the message has the field, the limit and the value."""


class GenerationFailed(StatusError):
    """The generation started and ended before it was complete."""


class Overloaded(StatusError):
    """The server's queue was full for the whole time limit."""


class RateLimited(Overloaded):
    """A limit of the key was reached for the whole time limit; `retry_after_s` is exact."""


class Unavailable(StatusError):
    """The model, the server or its store was not ready for the whole time limit."""


class InsufficientStorage(StatusError):
    """The server's memory budget or its store is full."""


_CLASSES: dict[int, type[StatusError]] = {
    400: BadRequest,
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    405: BadRequest,
    409: Conflict,
    410: SessionLost,
    412: PositionMismatch,
    413: BadRequest,
    421: BadRequest,
    422: Invalid,
    424: GenerationFailed,
    429: Overloaded,
    431: BadRequest,
    503: Unavailable,
    507: InsufficientStorage,
}


def _class_of(status: int, error_type: str) -> type[StatusError]:
    if error_type == "rate_limited":
        return RateLimited
    return _CLASSES.get(status, StatusError)


def error_from_response(status: int, headers: Mapping[str, str], content: bytes) -> StatusError:
    """Return the error of a response; the body may also be a proxy's, in any format."""
    try:
        body = json.loads(content)
        message, error_type = str(body["error"]), str(body["error_type"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message = content[:_MAX_MESSAGE_BYTES].decode(errors="replace") or "no reason was given"
        error_type = "unknown"
    return _class_of(status, error_type)(
        message,
        status=status,
        error_type=error_type,
        request_id=headers.get("x-request-id"),
        retry_after_s=_seconds(headers.get("retry-after")),
    )


def error_from_event(body: Mapping[str, object], request_id: str | None) -> StatusError:
    """Return the error of a stream's error event."""
    error_type = str(body.get("error_type"))
    status = _STATUSES.get(error_type, _INTERNAL_ERROR)
    return _class_of(status, error_type)(
        str(body["error"]), status=status, error_type=error_type, request_id=request_id
    )


def _seconds(text: str | None) -> float | None:
    """Return a Retry-After in seconds; one that is a date counts as none."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
