"""Who sends a request: the owner of its data, the key it was sent with, and what the key allows."""

from dataclasses import dataclass
from typing import Literal, get_args

from starlette.types import Scope

from service.limits.limits import NO_LIMITS, Limits

KeyScope = Literal["generate", "train", "admin", "metrics"]
KEY_SCOPES: frozenset[KeyScope] = frozenset(get_args(KeyScope))


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of one request."""

    owner: str
    key_id: str | None  # None: without a key
    scopes: frozenset[str]
    models: frozenset[str] | None  # names or name@version; None: every model
    limits: Limits = NO_LIMITS  # of the key; the server's defaults complete them


ANONYMOUS = Caller("", None, frozenset(KEY_SCOPES), None)
"""Everybody, while there are no keys."""


def set_caller(scope: Scope, caller: Caller) -> None:
    """Store the caller of a request where `caller_of` and the request's log find it."""
    scope.setdefault("state", {})["caller"] = caller


def caller_of(scope: Scope) -> Caller:
    """Return the caller that the middleware has found. Raises KeyError without the middleware."""
    caller = scope["state"]["caller"]
    assert isinstance(caller, Caller)
    return caller
