"""FastAPI's app with the layers of this service as its outermost ones."""

from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.request_log import RequestLog


class LayeredApp(FastAPI):
    """FastAPI's app without the layers that it puts around a `RequestLog`, which has to be there.

    They answer an exception without a handler, count what a body may have, and trace: the request
    log and the request pipeline do that.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """Return the request log, with what it calls."""
        layer: Any = super().build_middleware_stack()
        while not isinstance(layer, RequestLog):
            layer = layer.app
        return layer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)
