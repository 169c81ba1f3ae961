"""The routes that the lines of a batch may name, called in this process without a socket."""

import asyncio
import logging

from fastapi import FastAPI
from starlette.types import Message, Scope

from service.api import score
from service.api.caller import Caller
from service.api.direct_route import direct_routes
from service.api.errors import ErrorReplies, internal_error
from service.api.http_request import SEED
from service.api.metering import METER
from service.api.model_leases import MODEL_LEASES, ModelLeases
from service.api.openai import chat_routes as chat
from service.api.openai import embeddings
from service.api.openai import routes as openai
from service.api.state import AppState
from service.api.tgi import routes as tgi
from service.batch.call import RouteCall, RouteReply

_log = logging.getLogger(__name__)


class LineApp:
    """Answers calls with the routes of the server, for one caller. For one event loop."""

    def __init__(self, state: AppState) -> None:
        self._app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        self._app.state.carousel = state
        self._metering = state.metering
        replies = ErrorReplies({})
        replies.install(self._app)
        routers = [one.router for one in (tgi, openai, chat, embeddings, score)]
        for router in routers:
            self._app.include_router(router)
        self._routes = direct_routes(routers, replies)(self._app)

    async def answer(self, caller: Caller, call: RouteCall) -> RouteReply:
        """Return the reply of a route. Cancelled, it ends the route's work."""
        status, pieces = 500, list[bytes]()
        body: list[Message] = [{"type": "http.request", "body": call.body, "more_body": False}]

        async def receive() -> Message:
            if body:
                return body.pop()
            await asyncio.Event().wait()  # nobody disconnects
            raise AssertionError

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                pieces.append(message.get("body", b""))

        leases = ModelLeases()
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": call.path,
            "raw_path": call.path.encode("ascii"),
            "root_path": "",
            "query_string": b"",
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(call.body)),
            ],
            "client": None,
            "server": None,
            "app": self._app,
            "state": {"caller": caller, SEED: call.seed, MODEL_LEASES: leases},
        }
        try:
            await self._routes["POST", call.path](scope, receive, send)
        except Exception:  # noqa: BLE001 (as a server: a 500 without details)
            _log.exception("unexpected exception at a line of a batch")
            return RouteReply(500, bytes(internal_error(call.path).body))
        finally:
            leases.release()
            meter = scope["state"].get(METER)
            if meter is not None:
                self._metering.end(meter)
        return RouteReply(status, b"".join(pieces))
