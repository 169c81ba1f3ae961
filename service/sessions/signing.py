"""Session ids with a tag of their owner, and signatures of exported sessions."""

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from service.errors import BadRequest

LEAST_SECRET = 32
_RANDOM_BYTES, _TAG_CHARACTERS = 16, 8
_ID_CHARACTERS = 26 + _TAG_CHARACTERS


class Signer:
    """Signs with the server's secret; servers that share sessions or exports share the secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def new_id(self, owner: str, group: str = "") -> str:
        """Return a session id: 128 random bits, and a tag of the owner made with the secret.

        With a group, 108 bits: the id begins with it.
        """
        body = base64.b32encode(secrets.token_bytes(_RANDOM_BYTES)).decode().rstrip("=").lower()
        body = group + body[len(group) :]
        return body + self._tag(owner, body)

    def is_own(self, owner: str, session_id: str) -> bool:
        """Whether `new_id` made this id for `owner`, even if the session no longer exists."""
        body, tag = session_id[:-_TAG_CHARACTERS], session_id[-_TAG_CHARACTERS:]
        is_tagged = hmac.compare_digest(tag.encode(), self._tag(owner, body).encode())
        return len(session_id) == _ID_CHARACTERS and is_tagged

    def sign(self, content: bytes) -> bytes:
        """Return a 32-byte HMAC-SHA256 of `content`."""
        return hmac.digest(self._secret, b"export\0" + content, hashlib.sha256)

    def is_signed(self, content: bytes, signature: bytes) -> bool:
        """Whether `signature` is valid for `content`."""
        return hmac.compare_digest(self.sign(content), signature)

    def tag_of_owner(self, owner: str) -> str:
        """Return a short tag of an owner, for logs: it does not tell the owner's name."""
        return hmac.digest(self._secret, b"owner\0" + owner.encode(), hashlib.sha256).hex()[:12]

    def _tag(self, owner: str, body: str) -> str:
        digest = hmac.digest(self._secret, f"id\0{owner}\0{body}".encode(), hashlib.sha256)
        return base64.b32encode(digest).decode().lower()[:_TAG_CHARACTERS]


def check_secret(given: str) -> None:
    """Raise BadRequest where CAROUSEL_SECRET is too short."""
    if len(given) < LEAST_SECRET:
        raise BadRequest(
            f"CAROUSEL_SECRET has {len(given)} characters; it needs at least {LEAST_SECRET}"
        )


def read_secret(folder: Path, given: str | None) -> bytes:
    """Return the given secret, else that in `folder`, made if missing. Raises BadRequest."""
    if given is not None:
        check_secret(given)
        return given.encode()
    path = folder / "secret"
    folder.mkdir(parents=True, exist_ok=True)
    incoming = folder / f"secret.{os.getpid()}"
    incoming.touch(mode=0o600)
    incoming.write_bytes(secrets.token_hex(LEAST_SECRET).encode())
    try:
        os.link(incoming, path)  # fails if another process was first: one secret per folder
    except FileExistsError:
        pass
    finally:
        incoming.unlink()
    return path.read_bytes().strip()
