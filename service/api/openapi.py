"""The OpenAPI document: what FastAPI knows of the routes, and what every reply may be instead.

A route says what it answers where all goes well. Refusals are said here, once for each family: by
what an operation takes and by its tag. Whoever adds a route with a known tag need do nothing.
"""

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api.errors import STATUSES, is_openai
from service.api.openai.schemas import CompletionEvent
from service.api.score import ScoreEvent
from service.api.tgi.schemas import StreamReply
from service.api.training import JobEventReply
from service.errors import BadRequest, TooLarge

Json = dict[str, Any]

_OF_A_BODY = {400, 408, 413, 415, 422}
_OF_A_MODEL = {404, 409, 503}
_OF_A_SESSION = {404, 409, 410, 412, 422, 424, 429, 503, 507}

# What operations with these tags may be refused with, beyond what their bodies and parameters are.
_OF_A_TAG = {
    "generate": _OF_A_SESSION,
    "openai": _OF_A_SESSION,
    "score": _OF_A_SESSION,
    "sessions": _OF_A_SESSION,
    "tokens": _OF_A_MODEL,
    "admin": _OF_A_MODEL | {413, 422, 429, 507},
    "training": {404, 409, 413, 422, 503, 507},
    "service": {503},
}
_EVERYTHING = frozenset(STATUSES.values())  # of a tag that nobody has thought of

# What is refused before a condition of ours is known.
_OF_HTTP = {
    400: BadRequest.code,
    408: BadRequest.code,
    413: TooLarge.code,
    415: BadRequest.code,
}


class Problem(BaseModel):
    """What is wrong: a sentence for people and a code for programs."""

    error: str
    error_type: str


class OpenAIError(BaseModel):
    """What is wrong, as OpenAI's clients read it; `param` is the field, where it is one's fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIProblem(BaseModel):
    """What every refusal of a route below /v1 is."""

    error: OpenAIError


# Every reply that no route returns as a value.
_REPLIES: tuple[type[BaseModel], ...] = (
    Problem,
    OpenAIProblem,
    StreamReply,
    CompletionEvent,
    ScoreEvent,
    JobEventReply,
)


def complete(app: FastAPI) -> None:
    """Let `app` describe itself with every refusal."""
    plain: Callable[[], Json] = app.openapi

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = completed(plain())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def completed(document: Json) -> Json:
    """A document with the refusals of both families. Changes the one that is given, and gives it.

    FastAPI's own 422 goes: no reply of ours looks like that.
    """
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _, replies = models_json_schema(
        [(reply, "serialization") for reply in _REPLIES],
        ref_template="#/components/schemas/{model}",
    )
    schemas |= replies["$defs"]
    used: set[tuple[str, int]] = set()
    for path, operations in document["paths"].items():
        family = "OpenAIProblem" if is_openai(path) else "Problem"
        for operation in operations.values():
            responses = operation["responses"]
            responses.pop("422", None)
            for status in sorted(_refusals(operation)):
                name = f"{family}{status}"
                responses.setdefault(str(status), {"$ref": f"#/components/responses/{name}"})
                used.add((family, status))
    document["components"]["responses"] = {
        f"{family}{status}": _refusal(family, status) for family, status in sorted(used)
    }
    return document


def _refusals(operation: Json) -> Iterable[int]:
    found: set[int] = set()
    for tag in operation.get("tags", ()):
        found |= _OF_A_TAG.get(tag, _EVERYTHING)
    if "requestBody" in operation:
        found |= _OF_A_BODY
    if "parameters" in operation:
        found |= {422}
    return found


def _refusal(family: str, status: int) -> Json:
    codes = {kind.code for kind, one in STATUSES.items() if one == status}
    if status in _OF_HTTP:
        codes.add(_OF_HTTP[status])
    schema = {"$ref": f"#/components/schemas/{family}"}
    return {
        "description": " ".join(f"`{code}`" for code in sorted(codes)),
        "content": {"application/json": {"schema": schema}},
    }
