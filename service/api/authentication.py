"""The middleware that finds out who sends a request."""

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.caller import ANONYMOUS, set_caller


class Authentication:
    """Middleware that stores the caller of each request in its scope."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            set_caller(scope, ANONYMOUS)
        await self._app(scope, receive, send)
