"""The routes of keys: make, list, rotate and revoke."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, Field

from service.api.caller import KeyScope
from service.api.ended_request import MADE
from service.api.fields import Body
from service.api.state import get_state
from service.keys.key import Key
from service.keys.secret import KeySecret
from service.limits.limits import Limits

router = APIRouter(prefix="/admin/keys", tags=["keys"])

KeyText = Annotated[str, Field(max_length=128)]


class KeyBody(Body):
    """The body of POST /admin/keys."""

    name: KeyText
    scopes: list[KeyScope] = Field(min_length=1, max_length=8)
    owner: KeyText | None = None
    models: list[KeyText] | None = Field(default=None, max_length=64)
    expires_in_s: float | None = Field(default=None, allow_inf_nan=False)
    limits: dict[str, int] = Field(default={}, max_length=16)


class RotationBody(Body):
    """The body of POST /admin/keys/{id}/rotate."""

    grace_s: float = Field(default=0.0, allow_inf_nan=False)


class KeyReply(BaseModel):
    """A key, without its secret."""

    id: str
    name: str
    owner: str
    scopes: list[KeyScope]
    models: list[str] | None
    limits: dict[str, int]
    created_at: datetime
    expires_at: datetime | None
    grace_until: datetime | None  # of the secret before the last rotation
    revoked_at: datetime | None


class KeyWithSecret(KeyReply):
    """A key with its secret, which no other reply has."""

    secret: str


class KeysReply(BaseModel):
    """All keys, the oldest first."""

    keys: list[KeyReply]


@router.get("")
async def list_keys(request: Request) -> KeysReply:
    """List the keys, with those that are revoked or have expired."""
    keys = await get_state(request).keys.all()
    return KeysReply(keys=[KeyReply(**_members(key)) for key in keys])


@router.post("", status_code=201)
async def add_key(request: Request, body: KeyBody) -> KeyWithSecret:
    """Make a key; its owner is its name unless another is given. No other reply has the secret."""
    made = await get_state(request).keys.add(
        body.name,
        tuple(body.scopes),
        owner=body.owner,
        models=None if body.models is None else tuple(body.models),
        expires_in_s=body.expires_in_s,
        limits=Limits.of(body.limits),
    )
    setattr(request.state, MADE, made[0].id)
    return _with_secret(*made)


@router.post("/{key_id}/rotate")
async def rotate_key(
    request: Request,
    key_id: str,
    body: RotationBody | None = None,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> KeyWithSecret:
    """Give a key another secret; the one before is valid for `grace_s` more.

    Repeated with its Idempotency-Key, a rotation returns the same secret and changes nothing.
    """
    grace_s = 0.0 if body is None else body.grace_s
    return _with_secret(*await get_state(request).keys.rotate(key_id, grace_s, idempotency_key))


@router.delete("/{key_id}")
async def revoke_key(request: Request, key_id: str) -> KeyReply:
    """Revoke a key: within five seconds no server accepts it. Its record stays in the list."""
    key = await get_state(request).keys.revoke(key_id)
    return KeyReply(**_members(key))


def _with_secret(key: Key, secret: KeySecret) -> KeyWithSecret:
    return KeyWithSecret(**_members(key), secret=secret.text)


def _members(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "owner": key.owner,
        "scopes": list(key.scopes),
        "models": None if key.models is None else list(key.models),
        "limits": key.limits.members(),
        "created_at": _time(key.created_s),
        "expires_at": _time(key.expires_s),
        "grace_until": _time(key.grace_until_s or None),
        "revoked_at": _time(key.revoked_s),
    }


def _time(at_s: float | None) -> datetime | None:
    return None if at_s is None else datetime.fromtimestamp(at_s, UTC)
