"""The middleware that finds out who sends a request, and refuses who may not."""

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.access import Access, RouteAccess
from service.api.caller import ANONYMOUS, Caller, set_caller
from service.api.errors import refusal
from service.errors import CarouselError, Forbidden, Unauthorized
from service.keys.key import Key

Authenticate = Callable[[str | None], Awaitable[Key | None]]

NOBODY = Caller("", None, frozenset(), None)
"""The caller of a public route, whose key is not looked at."""


class Authentication:
    """Middleware that stores the caller of each request in its scope.

    It refuses a request before anything of its body is read. `key_refusal` in the scope's state has
    the reason for the log.
    """

    def __init__(
        self, app: ASGIApp, authenticate: Authenticate, *, has_public_docs: bool = False
    ) -> None:
        """`authenticate` returns the key of a secret, or None while nobody needs one."""
        self._app, self._authenticate = app, authenticate
        self._routes = RouteAccess()
        self._public = {"public", "docs"} if has_public_docs else {"public"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            needed = self._routes.needed(scope["method"], scope["path"])
            try:
                set_caller(scope, await self._caller(scope, needed))
            except CarouselError as error:
                reason = error.reason if isinstance(error, Unauthorized) else error.code
                scope["state"] = scope.get("state", {}) | {"key_refusal": reason}
                await refusal(scope["path"], error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _caller(self, scope: Scope, needed: Access) -> Caller:
        if needed in self._public:
            return NOBODY
        key = await self._authenticate(sent_secret(scope))
        if key is None:
            return ANONYMOUS
        caller = Caller(
            key.owner,
            key.id,
            frozenset(key.scopes),
            None if key.models is None else frozenset(key.models),
            key.limits,
        )
        set_caller(scope, caller)  # for the log, should it be refused
        if needed not in caller.scopes and needed not in {"any", "docs"}:
            raise Forbidden(
                f"this needs a key with the scope {needed}; this key has "
                f"{', '.join(sorted(caller.scopes))}"
            )
        return caller


def sent_secret(scope: Scope) -> str | None:
    """Return the secret in `Authorization: Bearer` or `X-API-Key`, or None.

    One in the URL is not looked at: URLs are logged. Two that differ are no secret of anybody.
    """
    found: set[str] = set()
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, secret = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                found.add(secret.strip())
        elif name == b"x-api-key":
            found.add(value.decode("latin-1").strip())
    return " ".join(found) if found else None
