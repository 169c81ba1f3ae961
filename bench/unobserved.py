"""The server without log, metrics and keys, to compare with: `bench.unobserved serve`."""

from starlette.types import ASGIApp, Receive, Scope, Send

from service import app as composition
from service.api.caller import ANONYMOUS, set_caller
from service.api.request_stats import RequestStats
from service.cli.main import main


class Unobserved:
    """In the place of the middlewares: it passes a request on, from nobody in particular."""

    def __init__(self, app: ASGIApp, **_: object) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            set_caller(scope, ANONYMOUS)
        await self._app(scope, receive, send)


def nothing(*_: object) -> None:
    """Count nothing."""


if __name__ == "__main__":
    for name in ("RequestLog", "Authentication"):
        setattr(composition, name, Unobserved)
    for name in ("count", "delivered"):
        setattr(RequestStats, name, nothing)
    main()
