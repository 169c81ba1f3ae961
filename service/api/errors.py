"""Error replies: the table of statuses, and the exception handlers that use it."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service import errors
from service.api.sampling_fields import INPUT_ERROR, RANGE_MESSAGES

STATUSES: dict[type[errors.CarouselError], int] = {
    errors.BadRequest: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.CrossOrigin: 403,
    errors.ModelNotFound: 404,
    errors.SessionNotFound: 404,
    errors.JobNotFound: 404,
    errors.CorpusNotFound: 404,
    errors.StoredFileNotFound: 404,
    errors.BatchNotFound: 404,
    errors.KeyNotFound: 404,
    errors.SessionBusy: 409,
    errors.SessionExists: 409,
    errors.StateModelMismatch: 409,
    errors.ModelInUse: 409,
    errors.CorpusInUse: 409,
    errors.JobNotOver: 409,
    errors.ModelUnloaded: 409,
    errors.SessionLost: 410,
    errors.SessionDamaged: 410,
    errors.PositionMismatch: 412,
    errors.SessionMoved: 412,
    errors.TooLarge: 413,
    errors.InvalidHost: 421,
    errors.Validation: 422,
    errors.Exists: 422,
    errors.OutOfTime: 422,  # only in the record of a train job
    errors.UnknownCharacter: 422,
    errors.BadCheckpoint: 422,
    errors.KeyReused: 422,
    errors.GenerationFailed: 424,
    errors.TurnCancelled: 424,
    errors.Overloaded: 429,
    errors.RateLimited: 429,
    errors.ModelNotReady: 503,
    errors.Draining: 503,
    errors.StoreUnavailable: 503,
    errors.MemoryBudgetExceeded: 507,
    errors.StoreFull: 507,
}
RETRY_AFTER_S, _BUSY_S = 1.0, 0.25
_RETRYABLE = {429, 503, 507}

# Errors that are raised before a turn begins, and never after.
_BEFORE_TURN = {
    errors.SessionBusy,
    errors.Overloaded,
    errors.RateLimited,
    errors.ModelNotReady,
}

_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    424: "server_error",
    429: "rate_limit_error",
}
MAX_VALUE_CHARACTERS, MAX_ERRORS = 80, 5
MAX_MESSAGE_BYTES = 900

_RANGE_ERRORS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}


def is_openai(path: str) -> bool:
    """Whether the errors of a path have OpenAI's shape."""
    return path == "/v1" or path.startswith("/v1/")


def body_for(
    path: str, status: int, message: str, code: str, field: str | None = None, **more: str
) -> bytes:
    """Encode the body of an error in the shape of its path, with `more` members."""
    while len(json.dumps(message)) > MAX_MESSAGE_BYTES:
        message = message[: len(message) * 9 // 10] + "…"
    body: dict[str, Any] = {"error": message, "error_type": code} | more
    if is_openai(path):
        default = "server_error" if status >= 500 else "invalid_request_error"
        kind = _OPENAI_TYPES.get(status, default)
        code = "invalid_api_key" if status == 401 else code
        body = {"error": {"message": message, "type": kind, "param": field, "code": code} | more}
    return json.dumps(body, ensure_ascii=True).encode("ascii")


def error_event(error: errors.CarouselError, path: str = "", **more: str) -> bytes:
    """Encode an error as an event of a stream, in the shape of its path."""
    body = body_for(path, STATUSES[type(error)], str(error), error.code, error.field, **more)
    return b"data: " + body + b"\n\n"


def _reply(
    path: str,
    status: int,
    message: str,
    code: str,
    field: str | None = None,
    *,
    may_repeat: bool = True,
) -> Response:
    """Return the reply to a request that is refused or has failed.

    OpenAI's clients retry a 409, 429 or 5xx unless `x-should-retry` is false: where a retry cannot
    help, or (not `may_repeat`) where a turn may have begun.
    """
    is_retryable = status in _RETRYABLE or code == errors.SessionBusy.code
    wait_s = _BUSY_S if code == errors.SessionBusy.code else RETRY_AFTER_S
    headers = {"Retry-After": "1", "retry-after-ms": f"{1e3 * wait_s:.0f}"} if is_retryable else {}
    if is_openai(path):
        headers["x-should-retry"] = "true" if is_retryable and may_repeat else "false"
    content = body_for(path, status, message, code, field)
    return Response(content, status, headers, "application/json")


def refusal(path: str, error: errors.CarouselError, *, may_repeat: bool = True) -> Response:
    """Return the reply to a request that an error of ours has ended."""
    status = STATUSES[type(error)]
    reply = _reply(path, status, str(error), error.code, error.field, may_repeat=may_repeat)
    if isinstance(error, errors.RateLimited):
        reply.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        reply.headers["retry-after-ms"] = str(math.ceil(1e3 * error.retry_after_s))
        reply.headers.update(error.headers)
    if status == 401:
        reply.headers["WWW-Authenticate"] = 'Bearer realm="carousel"'
    return reply


def internal_error(path: str) -> Response:
    """Return the reply to an internal error; it has no detail of the cause."""
    return _reply(path, 500, "internal error; the server's log has the details", "internal")


class ErrorReplies:
    """The replies to exceptions of the routes: every error has the shape of the contract."""

    def __init__(self, folders: Mapping[str, str]) -> None:
        """`folders` has the settings of the server's folders by paths, which no reply shows."""
        self._folders = folders

    def install(self, app: FastAPI) -> None:
        """Install the exception handlers of `app`."""
        app.add_exception_handler(errors.CarouselError, self.of_ours)  # type: ignore[arg-type]
        app.add_exception_handler(RequestValidationError, self.of_body)  # type: ignore[arg-type]
        app.add_exception_handler(HTTPException, self.of_http)  # type: ignore[arg-type]

    async def of_ours(self, http: Request, error: errors.CarouselError) -> Response:
        """Return the reply to an error of ours."""
        message = str(error)
        for folder, setting in self._folders.items():
            message = message.replace(folder, setting)
        error.args = (message,)
        is_unkeyed_turn = getattr(http.state, "is_unkeyed_turn", False)  # again: a second turn
        may_repeat = type(error) in _BEFORE_TURN or not is_unkeyed_turn
        return refusal(http.scope["path"], error, may_repeat=may_repeat)

    async def of_body(self, http: Request, error: RequestValidationError) -> Response:
        """Return the reply to a request that is not valid."""
        path, found = http.scope["path"], error.errors()
        if any(one["type"] == "json_invalid" for one in found):
            return _reply(path, 400, "the body is not JSON", errors.BadRequest.code)
        if is_openai(path):
            field = ".".join(_path(found[0])) or None
            return _reply(path, 422, describe(found), errors.Validation.code, field)
        message = INPUT_ERROR + describe(found, RANGE_MESSAGES)
        return _reply(path, 422, message, errors.Validation.code)

    async def of_http(self, http: Request, error: HTTPException) -> Response:
        """Return the reply to an error that has its status."""
        path, message = http.scope["path"], str(error.detail)
        code = errors.TooLarge.code if error.status_code == 413 else errors.BadRequest.code
        if error.status_code == 404 and is_openai(path):
            message = f"there is no {http.method} {path[:80]}; /docs lists the routes"
        reply = _reply(path, error.status_code, message, code)
        reply.headers.update(error.headers or {})
        return reply


def describe(found: Sequence[Any], ranges: Mapping[str, str] | None = None) -> str:
    """Return messages for pydantic's errors, each with the field, the limit and the value, cut.

    `ranges` has the messages for values out of range, by field.
    """
    messages = [_describe(one, ranges or {}) for one in found[:MAX_ERRORS]]
    if len(found) > MAX_ERRORS:
        messages.append(f"and {len(found) - MAX_ERRORS} more")
    return "; ".join(messages)


def _path(one: Any) -> list[str]:
    return [str(part)[:MAX_VALUE_CHARACTERS] for part in one["loc"] if part != "body"]


def _describe(one: Any, ranges: Mapping[str, str]) -> str:
    if isinstance(one["input"], bytes):
        return "the body is JSON only with the header Content-Type: application/json"
    path = _path(one)
    name, kind = (path[-1] if path else "body"), one["type"]
    if kind == "extra_forbidden":
        return f"`{'.'.join(path)}` is not a known field"
    if kind == "missing":
        return f"`{'.'.join(path) or 'body'}` is required"
    if kind in _RANGE_ERRORS and name in ranges:
        return f"{ranges[name]}. Given: {_cut(one['input'])}"
    message = str(one["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return message[:400]
    return f"`{'.'.join(path) or 'body'}`: {message[:200]}. Given: {_cut(one['input'])}"


def _cut(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[:MAX_VALUE_CHARACTERS]}…"
