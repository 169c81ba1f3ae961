"""The server without log, metrics and keys, to compare with: `bench.unobserved serve`."""

from starlette.types import ASGIApp, Receive, Scope, Send

from service import app as composition
from service.api.caller import ANONYMOUS, Caller, set_caller
from service.api.exchange import EXCHANGE, Exchange
from service.api.request_stats import RequestStats
from service.cli.main import main


class NoRequestLog:
    """In the place of the request log: it passes a request on, and counts nothing."""

    def __init__(self, app: ASGIApp, **_: object) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            exchange = scope.setdefault("state", {})[EXCHANGE] = Exchange("", send)
            send = exchange.send
        await self._app(scope, receive, send)


class NoAuthentication:
    """In the place of the authentication: everybody is nobody in particular."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    async def find(self, scope: Scope) -> Caller:
        """Store the caller of a request."""
        set_caller(scope, ANONYMOUS)
        return ANONYMOUS


def nothing(*_: object) -> None:
    """Count nothing."""


if __name__ == "__main__":
    for name, replacement in (("RequestLog", NoRequestLog), ("Authentication", NoAuthentication)):
        setattr(composition, name, replacement)
    for name in ("count", "delivered"):
        setattr(RequestStats, name, nothing)
    main()
