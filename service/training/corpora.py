"""The folder of uploaded texts: each once, under the sha256 of what it says."""

import json
import os
import secrets
import shutil
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from service.errors import CorpusNotFound
from service.training.corpus import Corpus

_TEXT, _CARD = "text.txt", "corpus.json"
_ID_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class CorpusCard:
    """What is known of a stored text. `bytes` and `sha256` are of the normalised text."""

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


class Corpora:
    """Texts by owner. Methods block on the file system; safe from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, owner: str, name: str, corpus: Corpus) -> CorpusCard:
        """Store a text; the same text is stored once and keeps its first name."""
        corpus_id = corpus.sha256[:_ID_CHARACTERS]
        target = self._of(owner) / corpus_id
        if (target / _CARD).is_file():
            return self.card(owner, corpus_id)
        card = CorpusCard(
            id=corpus_id,
            name=name,
            sha256=corpus.sha256,
            bytes=corpus.n_bytes,
            characters=len(corpus.text),
            vocabulary_size=len(corpus.vocabulary),
            vocabulary="".join(corpus.vocabulary),
            newlines_replaced=corpus.n_newlines_replaced,
            was_composed=corpus.was_composed,
            created_at=round(time.time(), 3),
        )
        incoming = self._of(owner) / f".incoming-{secrets.token_hex(8)}"
        incoming.mkdir(parents=True, mode=0o700)
        try:
            _write(incoming / _TEXT, corpus.text.encode())
            _write(incoming / _CARD, json.dumps(asdict(card)).encode())
            if not target.exists():  # else somebody was faster with the same text
                incoming.rename(target)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return card

    def card(self, owner: str, corpus_id: str) -> CorpusCard:
        """What is known of a text. Raises CorpusNotFound."""
        path = self._path(owner, corpus_id) / _CARD
        try:
            return CorpusCard(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            raise _missing(corpus_id) from None

    def read(self, owner: str, corpus_id: str) -> Corpus:
        """A text. Raises CorpusNotFound."""
        try:
            return Corpus.decode((self._path(owner, corpus_id) / _TEXT).read_bytes())
        except FileNotFoundError:
            raise _missing(corpus_id) from None

    def cards(self, owner: str) -> list[CorpusCard]:
        """Every text of an owner, the newest first."""
        found = [self.card(owner, path.parent.name) for path in self._of(owner).glob(f"*/{_CARD}")]
        return sorted(found, key=lambda card: -card.created_at)

    def _of(self, owner: str) -> Path:
        return self._folder / sha256(owner.encode()).hexdigest()[:16]

    def _path(self, owner: str, corpus_id: str) -> Path:
        if len(corpus_id) != _ID_CHARACTERS or set(corpus_id) - set("0123456789abcdef"):
            raise _missing(corpus_id)
        return self._of(owner) / corpus_id


def _missing(corpus_id: str) -> CorpusNotFound:
    return CorpusNotFound(f"there is no corpus {corpus_id[:80]!r}; POST /corpora makes one")


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
