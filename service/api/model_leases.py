"""The middleware that ends a request's leases of models when its reply has been sent."""

import contextlib

from starlette.types import ASGIApp, Receive, Scope, Send

MODEL_LEASES = "model_leases"  # in the request's state: an ExitStack


class ModelLeases:
    """Middleware that holds a request's models in memory until its reply, or stream, has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        with contextlib.ExitStack() as leases:
            scope.setdefault("state", {})[MODEL_LEASES] = leases
            await self._app(scope, receive, send)
