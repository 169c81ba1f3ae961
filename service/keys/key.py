"""The record of a key: whose it is, what it allows, until when, and its two hashes."""

import hmac
import json
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self

from service.errors import StoreUnavailable, Validation
from service.keys.config import KeyConfig
from service.keys.secret import KeySecret
from service.limits.limits import NO_LIMITS, Limits
from service.models.spec import ModelRef, check_name

SCOPES = ("generate", "train", "admin", "metrics")

KeyStatus = Literal["valid", "bad secret", "revoked", "expired"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `id` stays the same when its secret changes; times are seconds since 1970."""

    id: str
    name: str
    owner: str  # of the sessions, corpora and jobs; several keys may have the same
    scopes: tuple[str, ...]
    models: tuple[str, ...] | None  # names or name@version; None: every model
    created_s: float
    expires_s: float | None
    digest: str  # of the secret
    previous_digest: str | None = None  # of the secret before the last rotation,
    grace_until_s: float = 0.0  # which is valid until then
    revoked_s: float | None = None
    rotations: tuple[str, ...] = ()  # digests of their idempotency keys, the newest last
    limits: Limits = NO_LIMITS

    def __post_init__(self) -> None:
        """Raises Validation."""
        if not _NAME.fullmatch(self.name):
            raise Validation(f"{self.name[:80]!r} is no name of a key: {_NAME_RULE}", "name")
        if self.owner and not _NAME.fullmatch(self.owner):
            raise Validation(f"{self.owner[:80]!r} is no owner: {_NAME_RULE}", "owner")
        unknown = [scope for scope in self.scopes if scope not in SCOPES]
        if unknown or not self.scopes:
            named = f"{unknown[0][:80]!r} is no scope" if unknown else "a key has a scope or more"
            raise Validation(f"{named}: there are {', '.join(SCOPES)}", "scopes")
        if self.models is not None:
            self._check_models(self.models)

    def _check_models(self, models: tuple[str, ...]) -> None:
        limit = KeyConfig().max_models
        if not 1 <= len(models) <= limit:
            raise Validation(f"a key names 1 to {limit} models, not {len(models)}", "models")
        if "admin" in self.scopes:
            raise Validation("a key with the scope admin changes all models: name none", "models")
        for name in models:
            if "@" in name:
                ModelRef.parse(name)
            else:
                check_name(name)

    def status(self, secret: KeySecret, now_s: float) -> KeyStatus:
        """Return whether a secret is valid now. The time does not depend on the secret."""
        is_current = hmac.compare_digest(secret.digest, self.digest)
        is_previous = hmac.compare_digest(secret.digest, self.previous_digest or "0" * 64)
        if not is_current and not (is_previous and now_s < self.grace_until_s):
            return "bad secret"
        if self.revoked_s is not None:
            return "revoked"
        if self.expires_s is not None and now_s >= self.expires_s:
            return "expired"
        return "valid"

    def rotated(self, secret: KeySecret, rotation: str, grace_until_s: float) -> Self:
        """Return it with another secret; the one before is valid until `grace_until_s`."""
        return replace(
            self,
            digest=secret.digest,
            previous_digest=self.digest,
            grace_until_s=grace_until_s,
            rotations=(*self.rotations, rotation)[-KeyConfig().max_rotations :],
        )

    def revoked(self, now_s: float) -> Self:
        """Return it without any valid secret; the time of the first revocation stays."""
        return replace(self, revoked_s=self.revoked_s or now_s)

    def to_json(self) -> str:
        """Encode it for the store."""
        return json.dumps(asdict(self) | {"limits": self.limits.members()}, sort_keys=True)

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Decode a record of the store. Raises StoreUnavailable if it cannot be read."""
        try:
            found: dict[str, Any] = json.loads(content)
            members = {one.name: found[one.name] for one in fields(cls) if one.name in found}
            for name in ("scopes", "models", "rotations"):
                members[name] = None if members[name] is None else tuple(members[name])
            return cls(**members | {"limits": Limits.of(found.get("limits") or {})})
        except (ValueError, TypeError, KeyError, AttributeError, Validation) as error:
            raise StoreUnavailable("the record of a key in the store is damaged") from error


_NAME_RULE = "it has 1 to 64 letters, digits, dots, dashes, underscores and @"
