"""Routes whose JSON body is read and validated here, once, and not by FastAPI's general way.

FastAPI resolves dependencies, query, headers and cookies for each request, which takes longer than
all of these routes' own work. It still describes these routes, and still answers what is not a
valid body: it knows what to say.
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, get_type_hints

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import ErrorReplies
from service.api.fields import Body
from service.errors import CarouselError

Endpoint = Callable[[Request, Any], Awaitable[Response]]

_JSON = b"application/json"
_DECODER = json.JSONDecoder()


class DirectRoute:
    """One route as an ASGI app: its endpoint gets the body as a value of its model.

    A body that is no such value is passed on to `app`, which refuses it.
    """

    def __init__(
        self, endpoint: Endpoint, body: type[Body], app: ASGIApp, errors: ErrorReplies
    ) -> None:
        self._endpoint, self._body, self._app, self._errors = endpoint, body, app, errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request = Request(scope, receive, send)
        try:
            content = await _content(receive)
            body = self._validated(scope, content)
            if body is not None:
                response = await self._endpoint(request, body)
        except CarouselError as error:
            response = await self._errors.of_ours(request, error)
        except HTTPException as error:
            response = await self._errors.of_http(request, error)
        else:
            if body is None:
                await self._app(scope, _again(content, receive), send)
                return
        await response(scope, receive, send)

    def _validated(self, scope: Scope, content: bytes) -> Body | None:
        """Return the body, or None where something about it is for FastAPI to say."""
        kinds = [value for name, value in scope["headers"] if name == b"content-type"]
        if len(kinds) != 1 or kinds[0].partition(b";")[0].strip().lower() != _JSON:
            return None
        try:
            return self._body.model_validate(_json(content))
        except (ValidationError, ValueError, RecursionError):
            return None


def direct_routes(
    routers: Iterable[APIRouter], errors: ErrorReplies
) -> Callable[[ASGIApp], dict[tuple[str, str], ASGIApp]]:
    """Return what makes the direct routes, given the app on which they fall back.

    These are each `POST` of a fixed path by `async def endpoint(request, body) -> Response`.
    """
    found: dict[tuple[str, str], tuple[Endpoint, type[Body]]] = {}
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.methods == {"POST"}:
                body = _body_of(route.endpoint)
                if body is not None and "{" not in route.path:
                    found["POST", route.path] = route.endpoint, body

    def make(app: ASGIApp) -> dict[tuple[str, str], ASGIApp]:
        return {key: DirectRoute(*parts, app, errors) for key, parts in found.items()}

    return make


def _body_of(endpoint: Callable[..., Any]) -> type[Body] | None:
    hints = get_type_hints(endpoint)
    if hints.pop("return", None) is not Response or len(hints) != 2:
        return None
    first, second = hints.values()
    is_body = isinstance(second, type) and issubclass(second, Body)
    return second if first is Request and is_body else None


async def _content(receive: Receive) -> bytes:
    """Read the whole body. Raises ClientDisconnect, HTTPException."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        return bytes(message.get("body", b""))
    pieces = []
    while message["type"] == "http.request":
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)
        message = await receive()
    raise ClientDisconnect


def _json(content: bytes) -> Any:
    """Return as `json.loads`, which first looks for encodings and blanks that are rare."""
    try:
        text = content.decode()
        value, end = _DECODER.raw_decode(text)
    except ValueError:
        return json.loads(content)
    return value if end == len(text) else json.loads(content)


def _again(content: bytes, receive: Receive) -> Receive:
    """Return a `receive` that has the body again, and then what `receive` has."""
    waiting: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again
