"""The folder of uploaded texts: each once, under its sha256."""

import contextlib
import errno
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from service.errors import CorpusNotFound, TooLarge
from service.sandbox import SandboxChildren, SandboxError, SandboxLimits, run_sandboxed
from service.training.corpus import Corpus

_TEXT, _CARD = "text.txt", "corpus.json"
_ID_CHARACTERS = 32
LEFT_OVER_S = 7_200
"""Files not written for so long are abandoned: an upload takes an hour at most, a check minutes."""

NICENESS = 10
LIMITS = SandboxLimits(memory_bytes=4 * 1024**3, cpu_s=120, file_bytes=256 * 1024**2, wall_s=900.0)
_log = logging.getLogger(__name__)


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


def check_text(
    upload: Path,
    text: Path,
    limits: SandboxLimits = LIMITS,
    child: str = __name__,
    children: SandboxChildren | None = None,
) -> dict[str, Any]:
    """Normalise an uploaded file into the new file `text`; return CorpusCard's fields of it.

    Blocks while `run` of the module `child` works in a child process with limits: of sixty-four
    million characters the calls hold the GIL, and take a gigabyte. Raises TooLarge
    where the limits are reached, OSError where the disk is full, and as `Corpus.decode`.
    """
    paths = [str(upload.resolve()), str(text.resolve())]
    try:
        found: dict[str, Any] = run_sandboxed(
            child, paths, text.resolve().parent, limits, "checking the text", children=children
        )
    except SandboxError as error:
        _log.warning("a text was not checked: %s", error)
        raise TooLarge(f"{error}; give the text in parts") from error
    return found


def _write_new(path: Path, content: bytes) -> None:
    """Write a new file and force it to the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def run(paths: list[str]) -> dict[str, Any]:
    """Check one text, in the child process: the paths of the upload and of the new file."""
    os.nice(NICENESS)
    upload, text = map(Path, paths)
    corpus = Corpus.decode(upload.read_bytes())
    _write_new(text, corpus.text.encode())
    return {
        "sha256": corpus.sha256,
        "bytes": corpus.n_bytes,
        "characters": len(corpus.text),
        "vocabulary_size": len(corpus.vocabulary),
        "vocabulary": "".join(corpus.vocabulary),
        "newlines_replaced": corpus.n_newlines_replaced,
        "was_composed": corpus.was_composed,
    }


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
        """Check and store a text, once and by its first name. Raises as `check_text`."""
        incoming = self._of(owner) / f".incoming-{secrets.token_hex(8)}"
        incoming.mkdir(parents=True, mode=0o700)
        try:
            known = self._check(upload, incoming / _TEXT)
            corpus_id = known["sha256"][:_ID_CHARACTERS]
            card = CorpusCard(id=corpus_id, name=name, created_at=round(time.time(), 3), **known)
            _write_new(incoming / _CARD, json.dumps(asdict(card)).encode())
            try:
                incoming.rename(self._of(owner) / corpus_id)
            except OSError as error:
                if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:  # the same text is there
                    raise
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
        return CorpusCard(**json.loads(self._content(owner, corpus_id, _CARD)))

    def read(self, owner: str, corpus_id: str) -> Corpus:
        """Read a text. Raises CorpusNotFound."""
        return Corpus.stored(self._content(owner, corpus_id, _TEXT))

    def open(self, owner: str, corpus_id: str) -> IO[str]:
        """Open a text for reading in parts. Raises CorpusNotFound."""
        path = self._of(owner) / self.card(owner, corpus_id).id / _TEXT
        try:
            return path.open(encoding="utf-8", newline="")
        except FileNotFoundError as error:
            raise _not_found(corpus_id) from error

    def cards(self, owner: str) -> list[CorpusCard]:
        """List an owner's texts, the newest first."""
        found = []
        for path in self._of(owner).glob(f"[!.]*/{_CARD}"):
            with contextlib.suppress(CorpusNotFound):  # it was removed meanwhile
                found.append(self.card(owner, path.parent.name))
        return sorted(found, key=lambda card: -card.created_at)

    def delete(self, owner: str, corpus_id: str, check_unused: Callable[[], None]) -> None:
        """Delete a text, unless `check_unused` raises. Raises CorpusNotFound.

        The text is out of the way before the check, so that none begins to be used after it.
        """
        self.card(owner, corpus_id)
        path = self._of(owner) / corpus_id
        trash = self._of(owner) / f".incoming-{secrets.token_hex(8)}"  # which `sweep` removes
        try:
            path.rename(trash)
        except FileNotFoundError as error:
            raise _not_found(corpus_id) from error
        try:
            check_unused()
        except BaseException:
            with contextlib.suppress(OSError):  # the same text was uploaded meanwhile
                trash.rename(path)
            raise
        finally:
            shutil.rmtree(trash, ignore_errors=True)

    def _of(self, owner: str) -> Path:
        return self._folder / sha256(owner.encode()).hexdigest()[:16]

    def _content(self, owner: str, corpus_id: str, name: str) -> bytes:
        if re.fullmatch(f"[0-9a-f]{{{_ID_CHARACTERS}}}", corpus_id):
            with contextlib.suppress(FileNotFoundError):
                return (self._of(owner) / corpus_id / name).read_bytes()
        raise _not_found(corpus_id)


def _not_found(corpus_id: str) -> CorpusNotFound:
    return CorpusNotFound(f"there is no corpus {corpus_id[:80]!r}; POST /corpora makes one")
