"""Who a request comes from, by the key that it was sent with."""

import hashlib
import hmac
import math
import time

from service.errors import Unauthorized
from service.keys.cache import AnswerCache
from service.keys.config import KeyConfig
from service.keys.key import Key
from service.keys.key_store import KeyStore
from service.keys.secret import make_secret, new_id, parse_secret

BOOTSTRAP_ID = "bootstrap"
"""The id of the key CAROUSEL_ADMIN_KEY, which has no record."""

NOT_VALID = (
    "the API key is not valid: it is mistyped, revoked, expired or of another server; "
    "ask whoever runs this one for another"
)
_NONE_YET = (
    "there is no API key yet, and this server listens on more than the loopback address: "
    "`carousel keys add NAME --scope generate` makes one"
)
_MISSING = (
    "this server needs an API key: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
)


class Authenticator:
    """Finds the key of a request. Not thread-safe: one event loop only."""

    def __init__(
        self,
        store: KeyStore,
        config: KeyConfig,
        *,
        admin_key: str | None,
        allows_anonymous: bool,
    ) -> None:
        """`allows_anonymous`: as long as there are no keys, nobody needs one."""
        self._keys = AnswerCache[Key](store.find, config, grace_s=config.grace_s)
        # Without the store no key can be made, so "there are none" stays true.
        self._counts = AnswerCache[int](lambda _: store.count(), config, grace_s=math.inf)
        self._allows_anonymous = allows_anonymous
        self._needs_keys = admin_key is not None
        self._admin_digest = None if admin_key is None else _digest(admin_key)
        secret = make_secret(new_id())  # nobody has it: what an unknown key is compared with
        self._nobody = Key(
            secret.key_id, "nobody", "", ("generate",), None, 0.0, 0.0, secret.digest
        )

    async def authenticate(self, text: str | None) -> Key | None:
        """Return the key of a secret text; None for anybody while no key is needed.

        Raises Unauthorized, whose `reason` is for the log alone; StoreUnavailable.
        """
        if not self._needs_keys and not await self._counts.get(""):
            if self._allows_anonymous:
                return None
            raise Unauthorized(_NONE_YET, reason="no keys yet")
        self._needs_keys = (
            True  # for good: records are not removed, and a cleared store opens nothing
        )
        if text is None:
            raise Unauthorized(_MISSING, reason="no key")
        if self._is_admin_key(text):
            return Key(BOOTSTRAP_ID, BOOTSTRAP_ID, BOOTSTRAP_ID, ("admin",), None, 0.0, None, "")
        secret = parse_secret(text)
        if secret is None:
            raise Unauthorized(NOT_VALID, reason="malformed")
        key = await self._keys.get(secret.key_id)
        status = (key or self._nobody).status(secret, time.time())
        if key is None or status != "valid":
            raise Unauthorized(NOT_VALID, reason="unknown" if key is None else status)
        return key

    def _is_admin_key(self, text: str) -> bool:
        return self._admin_digest is not None and hmac.compare_digest(
            _digest(text), self._admin_digest
        )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
