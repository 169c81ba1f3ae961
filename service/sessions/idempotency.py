"""Idempotency keys: a request that is repeated with its key has the effect of one."""

import hashlib
from dataclasses import dataclass

from service.errors import Validation

MAX_KEY_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's key and a fingerprint of the request that came with it."""

    key: str
    fingerprint: str


def idempotency_key(header: str | None, *request: object) -> IdempotencyKey | None:
    """Return the key in a request's header, or None without one. Raises Validation.

    A part of the request may be a function, which is called only for a key.
    """
    if header is None:
        return None
    if not 1 <= len(header) <= MAX_KEY_CHARACTERS:
        raise Validation(
            f"the Idempotency-Key has {len(header)} characters; 1 to {MAX_KEY_CHARACTERS} are "
            "allowed"
        )
    parts = tuple(part() if callable(part) else part for part in request)
    return IdempotencyKey(header, hashlib.sha256(repr(parts).encode()).hexdigest()[:32])
