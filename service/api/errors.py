"""From conditions to statuses: the one table, and the handlers that make replies of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service import errors
from service.api.bodies import MAX_BEAMS, MAX_CHOICES, MAX_NEW_TOKENS
from service.generation.request import LEAST_REPETITION, MAX_TOP_TOKENS, MOST_REPETITION

STATUSES: dict[type[errors.CarouselError], int] = {
    errors.BadRequest: 400,
    errors.ModelNotFound: 404,
    errors.SessionNotFound: 404,
    errors.JobNotFound: 404,
    errors.CorpusNotFound: 404,
    errors.SessionBusy: 409,
    errors.SessionExists: 409,
    errors.StateModelMismatch: 409,
    errors.ModelInUse: 409,
    errors.ModelUnloaded: 409,
    errors.SessionLost: 410,
    errors.PositionMismatch: 412,
    errors.TooLarge: 413,
    errors.Validation: 422,
    errors.Exists: 422,
    errors.OutOfTime: 422,  # of a job's record, never of a reply
    errors.UnknownCharacter: 422,
    errors.BadCheckpoint: 422,
    errors.KeyReused: 422,
    errors.GenerationFailed: 424,
    errors.Overloaded: 429,
    errors.ModelNotReady: 503,
    errors.Draining: 503,
    errors.StoreUnavailable: 503,
    errors.MemoryBudgetExceeded: 507,
    errors.StoreFull: 507,
}
RETRY_AFTER_S, _BUSY_S = 1.0, 0.25
_SOON = {429, 503, 507}

# Conditions that are told before a turn begins, and never after.
_BEFORE_ANYTHING = {errors.SessionBusy, errors.Overloaded, errors.ModelNotReady}

_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    424: "server_error",
    429: "rate_limit_error",
}
LONGEST_VALUE, MOST_ERRORS = 80, 5
LONGEST_SENTENCE_BYTES = 900

# The sentences of Text Generation Inference, which its clients show to people.
_TGI_SENTENCES = {
    "temperature": "`temperature` must be strictly positive, or 0 for the likeliest token",
    "top_p": "`top_p` must be > 0.0 and < 1.0",
    "typical_p": "`typical_p` must be > 0.0 and < 1.0",
    "min_p": "`min_p` must be >= 0.0 and < 1.0",
    "top_k": "`top_k` must be strictly positive",
    "repetition_penalty": "`repetition_penalty` must be strictly positive, from "
    f"{LEAST_REPETITION} to {MOST_REPETITION:g}",
    "frequency_penalty": "`frequency_penalty` must be >= -2.0 and <= 2.0",
    "presence_penalty": "`presence_penalty` must be >= -2.0 and <= 2.0",
    "max_new_tokens": f"`max_new_tokens` must be strictly positive, and <= {MAX_NEW_TOKENS}",
    "best_of": f"`best_of` must be > 0 and <= {MAX_CHOICES}",
    "num_beams": f"`num_beams` must be > 0 and <= {MAX_BEAMS}",
    "top_n_tokens": f"`top_n_tokens` must be >= 0 and <= {MAX_TOP_TOKENS}",
}
_RANGE_ERRORS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}


def problem_body(error: errors.CarouselError, more: dict[str, str] | None = None) -> bytes:
    """The body that says what is wrong: of a native reply, or of the last event of a stream."""
    return _native_body(str(error), error.code, more)


def openai_problem_body(error: errors.CarouselError, more: dict[str, str] | None = None) -> bytes:
    """As `problem_body`, in OpenAI's shape."""
    return _openai_body(STATUSES[type(error)], str(error), error.code, error.field, more)


def _native_body(sentence: str, code: str, more: dict[str, str] | None = None) -> bytes:
    body = {"error": _cut_sentence(sentence), "error_type": code} | (more or {})
    return json.dumps(body, ensure_ascii=True).encode("ascii")


def _openai_body(
    status: int, sentence: str, code: str, field: str | None, more: dict[str, str] | None = None
) -> bytes:
    kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    error = {"message": _cut_sentence(sentence), "type": kind, "param": field, "code": code}
    return json.dumps({"error": error | (more or {})}, ensure_ascii=True).encode("ascii")


def _cut_sentence(sentence: str) -> str:
    while len(json.dumps(sentence)) > LONGEST_SENTENCE_BYTES:
        sentence = sentence[: len(sentence) * 9 // 10] + "…"
    return sentence


def is_openai(path: str) -> bool:
    """Whether a path is of the family of routes whose errors are objects."""
    return path == "/v1" or path.startswith("/v1/")


def body_for(path: str, status: int, sentence: str, code: str, field: str | None = None) -> bytes:
    """The body of a refusal, as the family of its route has it."""
    if is_openai(path):
        return _openai_body(status, sentence, code, field)
    return _native_body(sentence, code)


def _reply(
    path: str,
    status: int,
    sentence: str,
    code: str,
    field: str | None = None,
    *,
    may_repeat: bool = True,
) -> Response:
    """The reply to a request that is refused or has failed.

    OpenAI's clients send again by themselves what was answered with 409, 429 or 5xx, unless
    `x-should-retry` says no: where it is no use, or (not `may_repeat`) where a turn may have begun.
    """
    is_soon = status in _SOON or code == errors.SessionBusy.code
    wait_s = _BUSY_S if code == errors.SessionBusy.code else RETRY_AFTER_S
    headers = {"Retry-After": "1", "retry-after-ms": f"{1e3 * wait_s:.0f}"} if is_soon else {}
    if is_openai(path):
        headers["x-should-retry"] = "true" if is_soon and may_repeat else "false"
    content = body_for(path, status, sentence, code, field)
    return Response(content, status, headers, "application/json")


def internal_error(path: str) -> Response:
    """The reply to what should not have happened; it says nothing of the inside."""
    return _reply(path, 500, "the server has made a mistake; its log says which", "internal")


def install(app: FastAPI) -> None:
    """Let every error leave `app` in the contract's shapes."""

    @app.exception_handler(errors.CarouselError)
    async def named(http: Request, error: errors.CarouselError) -> Response:
        may_repeat = type(error) in _BEFORE_ANYTHING or not is_unkeyed_turn(http)
        return _reply(
            http.scope["path"],
            STATUSES[type(error)],
            str(error),
            error.code,
            error.field,
            may_repeat=may_repeat,
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(http: Request, error: RequestValidationError) -> Response:
        path, found = http.scope["path"], error.errors()
        if any(one["type"] == "json_invalid" for one in found):
            return _reply(path, 400, "the body is not JSON", errors.BadRequest.code)
        if is_openai(path):
            field = ".".join(_path(found[0])) or None
            return _reply(path, 422, describe(found), errors.Validation.code, field)
        sentence = f"Input validation error: {describe(found, _TGI_SENTENCES)}"
        return _reply(path, 422, sentence, errors.Validation.code)

    @app.exception_handler(HTTPException)
    async def refused(http: Request, error: HTTPException) -> Response:
        path, sentence = http.scope["path"], str(error.detail)
        code = errors.TooLarge.code if error.status_code == 413 else errors.BadRequest.code
        if error.status_code == 404 and is_openai(path):
            sentence = f"there is no {http.method} {path[:80]}; /docs shows what there is"
        reply = _reply(path, error.status_code, sentence, code)
        reply.headers.update(error.headers or {})
        return reply


def mark_unkeyed_turn(http: Request) -> None:
    """Say of a request that it continues a session, and that sent again it would do so again."""
    http.state.is_unkeyed_turn = True


def is_unkeyed_turn(http: Request) -> bool:
    """Whether `mark_unkeyed_turn` was said."""
    return getattr(http.state, "is_unkeyed_turn", False)


def describe(found: Sequence[Any], ranges: Mapping[str, str] | None = None) -> str:
    """Sentences for what pydantic found, each with the field, the limit and the value cut short.

    `ranges` has the sentences of fields whose limits are to be told in certain words.
    """
    sentences = [_describe(one, ranges or {}) for one in found[:MOST_ERRORS]]
    if len(found) > MOST_ERRORS:
        sentences.append(f"and {len(found) - MOST_ERRORS} more")
    return "; ".join(sentences)


def _path(one: Any) -> list[str]:
    return [str(part)[:LONGEST_VALUE] for part in one["loc"] if part != "body"]


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
    sentence = str(one["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return sentence[:400]
    return f"`{'.'.join(path) or 'body'}`: {sentence[:200]}. Given: {_cut(one['input'])}"


def _cut(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
