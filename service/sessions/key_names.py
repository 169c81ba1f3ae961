"""The names of keys in the store: on a cluster with hash tags, so that one call has one slot."""

import base64
import hashlib
import re
from dataclasses import dataclass

from service.sessions.session import SessionKey
from service.store_address import PREFIX, key_prefix

GROUP_CHARACTERS = 4

_NEW_ID = re.compile(r"[a-z2-7]{34}")  # as Signer.new_id makes them


def group_of(session_id: str) -> str:
    """Return the group of a session: a session and its forks have one, and so one slot.

    It depends on the id alone, so that any process finds the session.
    """
    if _NEW_ID.fullmatch(session_id):
        return session_id[:GROUP_CHARACTERS]
    digest = hashlib.sha256(session_id.encode()).digest()
    return base64.b32encode(digest).decode().lower()[:GROUP_CHARACTERS]


@dataclass(frozen=True, slots=True)
class KeyNames:
    """The names of keys. A store that is no cluster keeps those that it has always had."""

    is_cluster: bool = False

    def prefix(self, tag: str) -> str:
        """Return what the names of keys begin with that one call uses together."""
        return key_prefix(tag, is_cluster=self.is_cluster)

    def record(self, key: SessionKey) -> str:
        """The record of a session."""
        return f"{self._prefix_of(key)}session:{key}"

    def part(self, key: SessionKey, kind: str, name: str) -> str:
        """A key beside a session's record: `log`, `sums`, `state` or `mark`, and its name."""
        return f"{self._prefix_of(key)}{kind}:{name}"

    def request(self, key: SessionKey) -> str:
        """The record of a session's last turn."""
        return f"{self._prefix_of(key)}request:{key}"

    def idempotency(self, key: SessionKey, digest: str | None) -> str:
        """The record of a request with an idempotency key; without one, a key that is not there."""
        prefix = f"{self._prefix_of(key)}retry:"
        return prefix if digest is None else f"{prefix}{key.owner}/{digest}"

    def index(self, owner: str) -> str:
        """The index of an owner's sessions, which is in a slot of its own on a cluster."""
        return f"{PREFIX}sessions:{owner}"

    def process(self, name: str) -> str:
        """The key of a process that is alive."""
        return f"{PREFIX}process:{name}"

    def _prefix_of(self, key: SessionKey) -> str:
        return self.prefix(f"{key.owner}/{group_of(key.id)}") if self.is_cluster else PREFIX
