"""The one ASGI layer between the request log and the routes: each check of a request, in order."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.authentication import Authentication
from service.api.body_limit import BodyLimit
from service.api.browser_guard import BrowserGuard
from service.api.draining import DrainGate
from service.api.errors import refusal
from service.api.exchange import exchange_of
from service.api.metering import METER, UsageMetering
from service.api.model_leases import MODEL_LEASES, ModelLeases
from service.errors import CarouselError

DirectRoutes = Mapping[tuple[str, str], ASGIApp]  # by method and path


@dataclass(frozen=True, slots=True)
class RequestChecks:
    """What checks every request."""

    guard: BrowserGuard
    gate: DrainGate
    authentication: Authentication
    metering: UsageMetering
    body_limit: BodyLimit


class RequestPipeline:
    """Checks each request, and passes it to its route with what the route needs.

    The order: the browser guard, CORS, the drain, the caller, the caller's limits, the body's
    limits. A direct route is called at once, every other one by the router of `app`. `RequestLog`
    has put the request's exchange in the scope's state.
    """

    def __init__(
        self,
        app: ASGIApp,
        checks: RequestChecks,
        direct: Callable[[ASGIApp], DirectRoutes] = lambda _: {},
        origins: Sequence[str] = (),
    ) -> None:
        """`direct` makes the direct routes, which may fall back on `app`.

        Pages of `origins` may read the replies (CORS).
        """
        self._app, self._checks, self._direct = app, checks, direct(app)
        self._on_start = checks.guard.add_headers, checks.gate.add_headers
        self._after_guard = with_cors(self._admit, origins) if origins else self._admit

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        exchange_of(scope).on_start += self._on_start
        try:
            self._checks.guard.check(scope)
        except CarouselError as error:
            return refusal(scope["path"], error)(scope, receive, send)
        return self._after_guard(scope, receive, send)

    def _admit(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._checks.gate.run(self._serve, scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._checks.authentication.find(scope)
        except CarouselError as error:
            await refusal(scope["path"], error)(scope, receive, send)
            return
        add_headers = self._checks.metering.watch(scope)
        if add_headers is not None:
            exchange_of(scope).on_start.append(add_headers)
        state, leases = scope["state"], ModelLeases()
        state[MODEL_LEASES] = leases
        route = self._direct.get((scope["method"], scope["path"]), self._app)
        try:
            await route(scope, self._checks.body_limit.limited(scope, receive), send)
        finally:
            leases.release()
            meter = state.get(METER)
            if meter is not None:
                self._checks.metering.end(meter)


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return an app that answers the preflights of pages of these origins."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=["*"],
        expose_headers=["*"],
    )
