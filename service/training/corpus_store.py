"""The folder of uploaded texts: each once, under its sha256."""

import contextlib
import errno
import json
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from service.errors import CorpusNotFound
from service.training.corpus import Corpus
from service.training.corpus_check import check_text, write_new

_TEXT, _CARD = "text.txt", "corpus.json"
_ID_CHARACTERS = 32
LEFT_OVER_S = 7_200
"""Files not written for so long are abandoned: an upload takes an hour at most, a check minutes."""


@dataclass(frozen=True, slots=True)
class CorpusCard:
    """The facts of a stored text. `bytes` and `sha256` are of the normalised text."""

    id: str
    name: str
    sha256: str
    bytes: int
    characters: int
    vocabulary_size: int
    vocabulary: str  # every character once, in the order of the code points
    newlines_replaced: int
    was_composed: bool
    created_at: float


class CorpusStore:
    """Texts by owner. Methods block on the file system; safe from any thread."""

    def __init__(
        self, folder: Path, check: Callable[[Path, Path], dict[str, Any]] = check_text
    ) -> None:
        self._folder, self._check = folder, check

    def upload(self) -> Path:
        """Make a path for a text that is being uploaded."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._folder / f".upload-{secrets.token_hex(8)}"

    def put(self, owner: str, name: str, upload: Path) -> CorpusCard:
        """Check and store an uploaded text; the same is stored once and keeps its first name.

        Raises as `check_text`.
        """
        incoming = self._of(owner) / f".incoming-{secrets.token_hex(8)}"
        incoming.mkdir(parents=True, mode=0o700)
        try:
            known = self._check(upload, incoming / _TEXT)
            corpus_id = known["sha256"][:_ID_CHARACTERS]
            card = CorpusCard(id=corpus_id, name=name, created_at=round(time.time(), 3), **known)
            write_new(incoming / _CARD, json.dumps(asdict(card)).encode())
            with contextlib.suppress(FileExistsError):  # the same text is there
                _rename(incoming, self._of(owner) / corpus_id)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return self.card(owner, corpus_id)

    def sweep(self) -> None:
        """Remove what crashes have left, and no upload that may still be in progress."""
        for path in (*self._folder.glob(".upload-*"), *self._folder.glob("*/.incoming-*")):
            with contextlib.suppress(OSError):  # its own process has removed it
                if time.time() - path.stat().st_mtime < LEFT_OVER_S:
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def card(self, owner: str, corpus_id: str) -> CorpusCard:
        """Read the facts of a text. Raises CorpusNotFound."""
        path = self._path(owner, corpus_id) / _CARD
        try:
            return CorpusCard(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            raise _missing(corpus_id) from None

    def read(self, owner: str, corpus_id: str) -> Corpus:
        """Read a text. Raises CorpusNotFound."""
        try:
            return Corpus.stored((self._path(owner, corpus_id) / _TEXT).read_bytes())
        except FileNotFoundError:
            raise _missing(corpus_id) from None

    def cards(self, owner: str) -> list[CorpusCard]:
        """List an owner's texts, the newest first."""
        found = []
        for path in self._of(owner).glob(f"[!.]*/{_CARD}"):
            with contextlib.suppress(CorpusNotFound):  # it was removed meanwhile
                found.append(self.card(owner, path.parent.name))
        return sorted(found, key=lambda card: -card.created_at)

    def _of(self, owner: str) -> Path:
        return self._folder / sha256(owner.encode()).hexdigest()[:16]

    def _path(self, owner: str, corpus_id: str) -> Path:
        if len(corpus_id) != _ID_CHARACTERS or set(corpus_id) - set("0123456789abcdef"):
            raise _missing(corpus_id)
        return self._of(owner) / corpus_id


def _missing(corpus_id: str) -> CorpusNotFound:
    return CorpusNotFound(f"there is no corpus {corpus_id[:80]!r}; POST /corpora makes one")


def _rename(incoming: Path, target: Path) -> None:
    """Raises FileExistsError where the text is stored already."""
    try:
        incoming.rename(target)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        raise FileExistsError(errno.EEXIST, str(target)) from error
