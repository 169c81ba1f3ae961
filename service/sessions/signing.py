"""Session ids that can be told from made-up ones, and signatures on what leaves the server."""

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
    """What a server signs with. Servers that share sessions or exports share its secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def new_id(self, owner: str) -> str:
        """A session id: 128 random bits, and a tag that only `owner`'s own ids have."""
        body = base64.b32encode(secrets.token_bytes(_RANDOM_BYTES)).decode().rstrip("=").lower()
        return body + self._tag(owner, body)

    def is_own(self, owner: str, session_id: str) -> bool:
        """Whether an id was made here for `owner`, whatever has become of the session."""
        body, tag = session_id[:-_TAG_CHARACTERS], session_id[-_TAG_CHARACTERS:]
        is_tagged = hmac.compare_digest(tag.encode(), self._tag(owner, body).encode())
        return len(session_id) == _ID_CHARACTERS and is_tagged

    def sign(self, content: bytes) -> bytes:
        """32 bytes that only a server with the same secret can make of `content`."""
        return hmac.digest(self._secret, b"export\0" + content, hashlib.sha256)

    def is_signed(self, content: bytes, signature: bytes) -> bool:
        """Whether `signature` was made of `content`."""
        return hmac.compare_digest(self.sign(content), signature)

    def _tag(self, owner: str, body: str) -> str:
        digest = hmac.digest(self._secret, f"id\0{owner}\0{body}".encode(), hashlib.sha256)
        return base64.b32encode(digest).decode().lower()[:_TAG_CHARACTERS]


def read_secret(folder: Path, given: str | None) -> bytes:
    """The secret that is given, else the one in `folder`, made where there is none.

    Raises:
        BadRequest: the given one is too short.

    """
    if given is not None:
        if len(given) < LEAST_SECRET:
            raise BadRequest(
                f"CAROUSEL_SECRET has {len(given)} characters; it needs at least {LEAST_SECRET}"
            )
        return given.encode()
    path = folder / "secret"
    folder.mkdir(parents=True, exist_ok=True)
    incoming = folder / f"secret.{os.getpid()}"
    incoming.touch(mode=0o600)
    incoming.write_bytes(secrets.token_hex(LEAST_SECRET).encode())
    try:
        os.link(incoming, path)  # fails where another process was first: one secret a folder
    except FileExistsError:
        pass
    finally:
        incoming.unlink()
    return path.read_bytes().strip()
