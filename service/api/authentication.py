"""Who sends a request, and whether the sender may."""

from collections.abc import Awaitable, Callable

from starlette.types import Scope

from service.api.access import Access, RouteAccess
from service.api.caller import ANONYMOUS, Caller, set_caller
from service.errors import CarouselError, Forbidden, Unauthorized
from service.keys.key import Key

Authenticate = Callable[[str | None], Awaitable[Key | None]]

NOBODY = Caller("", None, frozenset(), None)
"""The caller of a public route, whose key is not looked at."""


class Authentication:
    """Finds the caller of each request, before anything of its body is read."""

    def __init__(self, authenticate: Authenticate, *, has_public_docs: bool = False) -> None:
        """`authenticate` returns the key of a secret, or None while nobody needs one."""
        self._authenticate, self._routes = authenticate, RouteAccess()
        self._public = {"public", "docs"} if has_public_docs else {"public"}

    async def find(self, scope: Scope) -> Caller:
        """Store the caller of a request in its scope, and return it.

        Raises Unauthorized, Forbidden, or as `authenticate`.
        `key_refusal` in the scope's state then has the reason for the log.
        """
        needed = self._routes.needed(scope["method"], scope["path"])
        try:
            caller = await self._caller(scope, needed)
        except CarouselError as error:
            reason = error.reason if isinstance(error, Unauthorized) else error.code
            scope["state"]["key_refusal"] = reason
            raise
        set_caller(scope, caller)
        return caller

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
