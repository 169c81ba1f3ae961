"""The text of a key: how it is made, how a mistyped one is found, and the hash that is stored."""

import base64
import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass

PREFIX = "carousel_"
ID_CHARACTERS, _RANDOM_BYTES, _CHECK_CHARACTERS = 12, 32, 6

_FORM = re.compile(rf"({PREFIX}([a-z2-7]{{{ID_CHARACTERS}}})_[a-z2-7]{{52}})([a-z2-7]{{6}})")


@dataclass(frozen=True, slots=True, repr=False)
class KeySecret:
    """The text that a caller sends: `carousel_ID_` and 256 random bits, with six check characters.

    The check characters tell a mistyped or shortened text from an unknown one without the store.
    """

    key_id: str
    text: str

    @property
    def digest(self) -> str:
        """The SHA-256 of the text, which is what is stored: 256 random bits need no slow hash."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def make_secret(key_id: str, random: bytes | None = None) -> KeySecret:
    """Make a secret of a key from 32 given bytes, else from random ones."""
    drawn = secrets.token_bytes(_RANDOM_BYTES) if random is None else random
    assert len(drawn) == _RANDOM_BYTES
    body = f"{PREFIX}{key_id}_{_base32(drawn)}"
    return KeySecret(key_id, body + _check_of(body))


def parse_secret(text: str) -> KeySecret | None:
    """Return the secret that a text is, or None where it is mistyped or something else."""
    found = _FORM.fullmatch(text)
    if found is None or found[3] != _check_of(found[1]):
        return None
    return KeySecret(found[2], text)


def new_id() -> str:
    """Return the id of a new key; it is not secret."""
    return _base32(secrets.token_bytes(8))[:ID_CHARACTERS]


def _check_of(body: str) -> str:
    return _base32(zlib.crc32(body.encode()).to_bytes(4, "big"))[:_CHECK_CHARACTERS]


def _base32(content: bytes) -> str:
    return base64.b32encode(content).decode().rstrip("=").lower()
