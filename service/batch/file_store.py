"""The folder of uploaded files and of batches' outputs, by owner."""

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from service.errors import StoredFileNotFound

_CONTENT, _CARD = "content", "file.json"
_ID = re.compile(r"file-[0-9a-f]{32}")
LEFT_OVER_S = 7_200
"""Files not written for so long are abandoned: an upload takes an hour at most."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The facts of a file. Times are seconds since 1970."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int | None = None  # then it is deleted


def folder_of(folder: Path, owner: str) -> Path:
    """Return the folder of an owner's things."""
    return folder / sha256(owner.encode()).hexdigest()[:16]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file at once: who reads it, also after a kill, finds all of it or what was before."""
    incoming = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with incoming.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    incoming.replace(path)


class FileStore:
    """Files by owner. Methods block on the file system; safe from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def incoming(self) -> Path:
        """Make a path for a file that is being written."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._folder / f".upload-{secrets.token_hex(8)}"

    def put(
        self,
        owner: str,
        incoming: Path,
        filename: str,
        purpose: str,
        *,
        expires_in_s: int | None = None,
        name: str | None = None,
    ) -> StoredFile:
        """Store a file that was written to `incoming`, which is moved.

        Two with the same `name` are one file: the first.
        """
        number = secrets.token_hex(16) if name is None else sha256(name.encode()).hexdigest()[:32]
        now_s = int(time.time())
        expires_at = None if expires_in_s is None else now_s + expires_in_s
        size_bytes = incoming.stat().st_size
        card = StoredFile(f"file-{number}", filename, purpose, size_bytes, now_s, expires_at)
        parent = folder_of(self._folder, owner)
        folder = parent / f".incoming-{secrets.token_hex(8)}"
        folder.mkdir(parents=True, mode=0o700)
        try:
            incoming.rename(folder / _CONTENT)
            write_whole(folder / _CARD, json.dumps(asdict(card)).encode())
            try:
                folder.rename(parent / card.id)
            except OSError:
                if not (parent / card.id / _CARD).is_file():
                    raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return self.card(owner, card.id)

    def card(self, owner: str, file_id: str) -> StoredFile:
        """Return the facts of a file. Raises StoredFileNotFound."""
        with contextlib.suppress(FileNotFoundError):
            if _ID.fullmatch(file_id):
                path = folder_of(self._folder, owner) / file_id / _CARD
                card = StoredFile(**json.loads(path.read_bytes()))
                if card.expires_at is None or card.expires_at > time.time():
                    return card
        raise StoredFileNotFound(f"there is no file {file_id[:80]!r}; POST /v1/files makes one")

    def content(self, owner: str, file_id: str) -> Path:
        """Return the path of a file's content. Raises StoredFileNotFound."""
        return folder_of(self._folder, owner) / self.card(owner, file_id).id / _CONTENT

    def cards(self, owner: str) -> list[StoredFile]:
        """List an owner's files, the newest first."""
        found = []
        for path in folder_of(self._folder, owner).glob(f"file-*/{_CARD}"):
            with contextlib.suppress(StoredFileNotFound):  # it was removed meanwhile
                found.append(self.card(owner, path.parent.name))
        return sorted(found, key=lambda card: (-card.created_at, card.id))

    def stored_bytes(self, owner: str) -> int:
        """Return the size of all files of an owner."""
        return sum(card.bytes for card in self.cards(owner))

    def delete(self, owner: str, file_id: str) -> None:
        """Delete a file; a batch that reads it goes on. Raises StoredFileNotFound."""
        self._remove(folder_of(self._folder, owner) / self.card(owner, file_id).id)

    def sweep(self) -> None:
        """Remove files that have expired, and what crashes have left."""
        now_s = time.time()
        for path in (*self._folder.glob(".upload-*"), *self._folder.glob("*/.incoming-*")):
            with contextlib.suppress(OSError):
                if now_s - path.stat().st_mtime > LEFT_OVER_S:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in self._folder.glob(f"*/file-*/{_CARD}"):
            with contextlib.suppress(OSError):
                expires_at = json.loads(path.read_bytes())["expires_at"]
                if expires_at is not None and expires_at <= now_s:
                    self._remove(path.parent)

    def _remove(self, folder: Path) -> None:
        trash = folder.with_name(f".incoming-{secrets.token_hex(8)}")  # which `sweep` removes
        with contextlib.suppress(FileNotFoundError):  # another call has removed it
            folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)
