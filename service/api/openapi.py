"""The OpenAPI document: what FastAPI makes of the routes, and the error replies.

A route describes its successful reply. Its errors are added here, in the shape of its path,
from its tag, its body and its parameters.
"""

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import Route

from service.api.access import ROUTE_SCOPES, Access
from service.api.errors import STATUSES, is_openai
from service.api.openai.chat_schemas import ChatEvent
from service.api.openai.schemas import CompletionEvent
from service.api.score import ScoreEvent
from service.api.tgi.schemas import StreamReply
from service.api.training import JobEventReply
from service.errors import BadRequest, TooLarge

Json = dict[str, Any]

_BODY_STATUSES = {400, 408, 413, 415, 422}
_MODEL_STATUSES = {404, 409, 503, 507}
_SESSION_STATUSES = {404, 409, 410, 412, 422, 424, 429, 503, 507}

# The statuses of errors by tag, besides those of a body and of parameters.
_TAG_STATUSES = {
    "generate": _SESSION_STATUSES,
    "openai": _SESSION_STATUSES,
    "score": _SESSION_STATUSES,
    "inspection": _SESSION_STATUSES,
    "sessions": _SESSION_STATUSES,
    "tokens": _MODEL_STATUSES,
    "admin": _MODEL_STATUSES | {413, 422, 429, 507},
    "keys": {404, 422, 503, 507},
    "files": {404, 413, 422, 429, 503, 507},
    "training": {404, 409, 413, 422, 429, 503, 507},
    "service": {503},
    "oip": _MODEL_STATUSES,
}


# How a key is sent. While a server has no keys, none is needed.
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def _encoded(document: Callable[[], Json]) -> bytes:
    return json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode()


class Problem(BaseModel):
    """An error: a message for people and a code for programs."""

    error: str
    error_type: str


class OpenAIError(BaseModel):
    """An error in OpenAI's shape; `param` is the field that caused it."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIProblem(BaseModel):
    """The body of every error of a route under /v1."""

    error: OpenAIError


# Names of schemas in the document, where the class has another one: generated clients use them.
_SCHEMA_NAMES = {
    "JobEventReply": ("JobEvent", "JobEvent"),
    "JobStatus": ("service__training__job__Status", "Status"),
    "ModelStatus": ("service__models__registry__Status", "Status"),
}

# Replies that no route returns as a value.
_REPLIES: tuple[type[BaseModel], ...] = (
    Problem,
    OpenAIProblem,
    StreamReply,
    CompletionEvent,
    ChatEvent,
    ScoreEvent,
    JobEventReply,
)


def complete(app: FastAPI) -> None:
    """Make `app` describe the error replies in its OpenAPI document."""
    plain: Callable[[], Json] = app.openapi

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = completed(plain())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    content: bytes | None = None

    async def serve(_: Request) -> Response:
        """Serve the document, made and encoded once: each time it would hold the event loop."""
        nonlocal content
        if content is None:
            content = await asyncio.to_thread(_encoded, openapi)
        return Response(content, media_type="application/json")

    app.router.routes[:] = [
        Route(str(app.openapi_url), serve, include_in_schema=False)
        if getattr(route, "path", None) == app.openapi_url
        else route
        for route in app.router.routes
    ]


def completed(document: Json) -> Json:
    """Return a document with the error replies, without FastAPI's own 422, which none has."""
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _, replies = models_json_schema(
        [(reply, "serialization") for reply in _REPLIES],
        ref_template="#/components/schemas/{model}",
    )
    schemas |= replies["$defs"]
    document = _with_schema_names(document)
    used: set[tuple[str, int]] = set()
    for path, operations in document["paths"].items():
        error = "OpenAIProblem" if is_openai(path) else "Problem"
        for method, operation in operations.items():
            needed = ROUTE_SCOPES.get(f"{method.upper()} {path}", "any")
            responses = operation["responses"]
            responses.pop("422", None)
            for status in sorted(_error_statuses(operation, needed)):
                name = f"{error}{status}"
                responses.setdefault(str(status), {"$ref": f"#/components/responses/{name}"})
                used.add((error, status))
            if needed != "public":
                operation["security"] = [{name: []} for name in _SECURITY_SCHEMES]
    document["components"]["securitySchemes"] = _SECURITY_SCHEMES
    document["components"]["responses"] = {
        f"{error}{status}": _error_reply(error, status) for error, status in sorted(used)
    }
    return document


def _with_schema_names(document: Json) -> Json:
    text = json.dumps(document)
    for name in document["components"]["schemas"].keys() & _SCHEMA_NAMES.keys():
        published, title = _SCHEMA_NAMES[name]
        text = text.replace(f'schemas/{name}"', f'schemas/{published}"')
        text = text.replace(f'"{name}": {{', f'"{published}": {{')
        text = text.replace(f'"title": "{name}"', f'"title": "{title}"')
    return cast("Json", json.loads(text))


def _error_statuses(operation: Json, needed: Access) -> Iterable[int]:
    found = {400, 403, 421} if needed == "public" else {400, 401, 403, 421, 503}
    for tag in operation["tags"]:
        found |= _TAG_STATUSES.get(tag, set(STATUSES.values()))
    if "requestBody" in operation:
        found |= _BODY_STATUSES
    if "parameters" in operation:
        found |= {422, 431}
    return found


def _error_reply(error: str, status: int) -> Json:
    codes = {kind.code for kind, one in STATUSES.items() if one == status}
    if status in (_BODY_STATUSES | {431}) - {422}:  # the HTTP layer raises them
        codes.add(TooLarge.code if status in {413, 431} else BadRequest.code)
    schema = {"$ref": f"#/components/schemas/{error}"}
    return {
        "description": " ".join(f"`{code}`" for code in sorted(codes)),
        "content": {"application/json": {"schema": schema}},
    }
