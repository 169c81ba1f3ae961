"""From conditions to statuses: the one table, and the handlers that make replies of them."""

import json
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service import errors

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
    errors.Generation: 424,
    errors.Overloaded: 429,
    errors.ModelNotReady: 503,
    errors.Draining: 503,
    errors.StoreUnavailable: 503,
    errors.MemoryBudgetExceeded: 507,
    errors.StoreFull: 507,
}
RETRY_AFTER_S = "1"
_SOON = {429, 503, 507}
LONGEST_VALUE, MOST_ERRORS = 80, 5
LONGEST_SENTENCE_BYTES = 900

# The sentences of Text Generation Inference, which its clients show to people.
_TGI_SENTENCES = {
    "temperature": "`temperature` must be strictly positive, or 0 for the likeliest token",
    "top_p": "`top_p` must be > 0.0 and < 1.0",
    "typical_p": "`typical_p` must be > 0.0 and < 1.0",
    "min_p": "`min_p` must be >= 0.0 and < 1.0",
    "top_k": "`top_k` must be strictly positive",
    "repetition_penalty": "`repetition_penalty` must be strictly positive",
    "frequency_penalty": "`frequency_penalty` must be >= -2.0 and <= 2.0",
    "presence_penalty": "`presence_penalty` must be >= -2.0 and <= 2.0",
}
_RANGE_ERRORS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}


def problem_body(error: errors.CarouselError, more: dict[str, str] | None = None) -> bytes:
    """The body that says what is wrong: of a reply, or of the last event of a stream."""
    return _body(str(error), error.code, more)


def _body(sentence: str, code: str, more: dict[str, str] | None = None) -> bytes:
    while len(json.dumps(sentence)) > LONGEST_SENTENCE_BYTES:
        sentence = sentence[: len(sentence) * 9 // 10] + "…"
    body = {"error": sentence, "error_type": code} | (more or {})
    return json.dumps(body, ensure_ascii=True).encode("ascii")


def _reply(status: int, sentence: str, code: str) -> Response:
    is_soon = status in _SOON or code == errors.SessionBusy.code
    headers = {"Retry-After": RETRY_AFTER_S} if is_soon else None
    return Response(_body(sentence, code), status, headers, "application/json")


def mistake() -> Response:
    """The reply to what should not have happened; it says nothing of the inside."""
    return _reply(500, "the server has made a mistake; its log says which", "internal")


def install(app: FastAPI) -> None:
    """Let every error leave `app` in the contract's shape."""

    @app.exception_handler(errors.CarouselError)
    async def named(_: Request, error: errors.CarouselError) -> Response:
        return _reply(STATUSES[type(error)], str(error), error.code)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        if any(one["type"] == "json_invalid" for one in found):
            return _reply(400, "the body is not JSON", errors.BadRequest.code)
        return _reply(422, f"Input validation error: {describe(found)}", errors.Validation.code)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        code = errors.TooLarge.code if error.status_code == 413 else errors.BadRequest.code
        reply = _reply(error.status_code, str(error.detail), code)
        reply.headers.update(error.headers or {})
        return reply


def describe(found: Sequence[Any]) -> str:
    """Sentences for what pydantic found, each with the field, the limit and the value cut short."""
    sentences = [_describe(one) for one in found[:MOST_ERRORS]]
    if len(found) > MOST_ERRORS:
        sentences.append(f"and {len(found) - MOST_ERRORS} more")
    return "; ".join(sentences)


def _describe(one: Any) -> str:
    if isinstance(one["input"], bytes):
        return "the body is JSON only with the header Content-Type: application/json"
    path = [str(part)[:LONGEST_VALUE] for part in one["loc"] if part != "body"]
    name, kind = (path[-1] if path else "body"), one["type"]
    if kind == "extra_forbidden":
        return f"`{'.'.join(path)}` is not a known field"
    if kind == "missing":
        return f"`{'.'.join(path) or 'body'}` is required"
    if kind in _RANGE_ERRORS and name in _TGI_SENTENCES:
        return f"{_TGI_SENTENCES[name]}. Given: {_cut(one['input'])}"
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
