"""Changes of the keys: add, list, rotate, revoke; the same from a terminal and over HTTP."""

import hashlib
import hmac
import time

from service.errors import KeyReused, Validation
from service.keys.config import KeyConfig
from service.keys.key import Key
from service.keys.key_store import KeyStore
from service.keys.secret import KeySecret, make_secret, new_id
from service.limits.limits import NO_LIMITS, Limits


class KeyRing:
    """The keys of a deployment. Every method raises StoreUnavailable and StoreFull."""

    def __init__(self, store: KeyStore, signing_secret: bytes, config: KeyConfig) -> None:
        self._store, self._config = store, config
        self._signing_secret = signing_secret  # derives the secret of a rotation that is repeated

    async def add(
        self,
        name: str,
        scopes: tuple[str, ...],
        *,
        owner: str | None = None,
        models: tuple[str, ...] | None = None,
        expires_in_s: float | None = None,
        limits: Limits = NO_LIMITS,
    ) -> tuple[Key, KeySecret]:
        """Make a key; its owner is its name unless another is given. Raises Validation.

        The secret is nowhere else: who loses it rotates the key.
        """
        limit_s = self._config.max_expires_in_s
        if expires_in_s is not None and not 0 < expires_in_s <= limit_s:
            message = f"`expires_in_s` is {expires_in_s:g}; it is above 0 and at most {limit_s:.0f}"
            raise Validation(message, "expires_in_s")
        now_s = time.time()
        secret = make_secret(new_id())
        key = Key(
            secret.key_id,
            name,
            name if owner is None else owner,
            tuple(sorted(set(scopes))),
            None if models is None else tuple(sorted(set(models))),
            now_s,
            None if expires_in_s is None else now_s + expires_in_s,
            secret.digest,
            limits=limits,
        )
        await self._store.add(key)
        return key, secret

    async def all(self) -> list[Key]:
        """Return every key, the oldest first, with those that are revoked or have expired."""
        return await self._store.all()

    async def find(self, key_id: str) -> Key | None:
        """Return a key, be it revoked or expired; None where there is none."""
        return await self._store.find(key_id)

    async def rotate(
        self, key_id: str, grace_s: float, idempotency_key: str | None = None
    ) -> tuple[Key, KeySecret]:
        """Give a key another secret; the one before is valid for `grace_s` more.

        Repeated with the same `idempotency_key` it changes nothing and returns the same secret.
        Raises KeyNotFound; Validation if the key is revoked; KeyReused if a later rotation has
        replaced that secret, or the first call was another one.
        """
        limit_s = self._config.max_rotation_grace_s
        if not 0 <= grace_s <= limit_s:
            message = f"`grace_s` is {grace_s:g}; it is 0 to {limit_s:.0f}"
            raise Validation(message, "grace_s")
        secret, rotation = make_secret(key_id), ""
        if idempotency_key is not None:
            told = f"rotation\0{key_id}\0{idempotency_key}".encode()
            drawn = hmac.digest(self._signing_secret, told, hashlib.sha256)
            secret = make_secret(key_id, drawn)
            rotation = hashlib.sha256(told + f"\0{grace_s:g}".encode()).hexdigest()[:32]
        now_s = time.time()

        def change(key: Key) -> Key:
            if key.revoked_s is not None:
                raise Validation(f"the key {key_id} is revoked; make another one")
            if key.digest == secret.digest and rotation in key.rotations[-1:]:
                return key
            if rotation and rotation in key.rotations:
                raise KeyReused("a later rotation has replaced the secret of this one")
            if secret.digest in {key.digest, key.previous_digest}:
                raise KeyReused("the Idempotency-Key was used for a rotation with another grace_s")
            return key.rotated(secret, rotation, now_s + grace_s)

        return await self._store.change(key_id, change), secret

    async def revoke(self, key_id: str) -> Key:
        """Make a key invalid, in every server within seconds; again has no effect.

        Its record stays, so that a server without other keys does not become open to everybody.
        Raises KeyNotFound.
        """
        now_s = time.time()
        return await self._store.change(key_id, lambda key: key.revoked(now_s))

    async def close(self) -> None:
        """Disconnect."""
        await self._store.close()
