"""The records of batches: a folder each, whose state one process at a time writes."""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from service.batch.file_store import folder_of, write_whole
from service.errors import BatchNotFound

_BATCH, _STATE, _CANCEL, _INPUT, _ROWS, _PINS = (
    *("batch.json", "state.json", "cancel", "input.jsonl", "rows.jsonl", "models.json"),
)
_ID = re.compile(r"batch_[0-9a-f]{32}")


class BatchStatus(StrEnum):
    """OpenAI's statuses of a batch."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether it stays so."""
        return self in _OVER


_OVER = {BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """What was asked for. It does not change. Times are seconds since 1970."""

    id: str
    owner: str
    key_id: str | None  # whose models and limits hold; None: it was made without a key
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    output_expires_in_s: int | None = None
    metadata: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class BatchError:
    """Why a batch has failed."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class BatchState:
    """How far it is. The process that holds the batch's claim writes it."""

    status: BatchStatus = BatchStatus.VALIDATING
    total: int = 0
    completed: int = 0
    failed: int = 0
    errors: tuple[BatchError, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    times: dict[str, int] = field(default_factory=dict)  # by status, of its beginning
    outcome: BatchStatus | None = None  # while it is finalizing: what it becomes

    def begin(self, status: BatchStatus, **changes: Any) -> Self:
        """Return the state in which a status has begun."""
        times = self.times if status in self.times else {**self.times, status: int(time.time())}
        return replace(self, status=status, times=times, **changes)

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read what `to_json` has written."""
        values = json.loads(text)
        outcome = values.pop("outcome")
        return cls(
            status=BatchStatus(values.pop("status")),
            errors=tuple(BatchError(**one) for one in values.pop("errors")),
            outcome=None if outcome is None else BatchStatus(outcome),
            **values,
        )

    def to_json(self) -> bytes:
        """Encode it."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as it was when it was read."""

    spec: BatchSpec
    state: BatchState
    folder: Path
    cancelled_at: int | None = None  # when its cancellation was asked for

    @property
    def status(self) -> BatchStatus:
        """Its status, for whom asks."""
        if self.cancelled_at is not None and not self.state.status.is_over:
            return BatchStatus.CANCELLING
        return self.state.status

    @property
    def input(self) -> Path:
        """The lines. They are there until the batch is over."""
        return self.folder / _INPUT

    @property
    def rows(self) -> Path:
        """The rows of the lines that were answered. They are there until the batch is over."""
        return self.folder / _ROWS

    @property
    def pins(self) -> Path:
        """The versions that its lines' names of models mean."""
        return self.folder / _PINS

    @property
    def shall_end(self) -> bool:
        """Whether its cancellation was asked for."""
        return (self.folder / _CANCEL).exists()

    def write(self, state: BatchState) -> Self:
        """Write the state and return the batch with it. For who holds its claim."""
        write_whole(self.folder / _STATE, state.to_json())
        return replace(self, state=state)

    @contextlib.contextmanager
    def claim(self) -> Iterator[bool]:
        """Claim the batch for this process; false where another one has it.

        The system gives the claim back when the process ends, however it ends.
        """
        with (self.folder / _BATCH).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def clear(self) -> None:
        """Delete the lines and the rows of a batch that is over."""
        for path in (self.input, self.rows, self.pins):
            path.unlink(missing_ok=True)


class BatchStore:
    """Batches by owner. Methods block on the file system; safe from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, spec: BatchSpec, content: Path) -> BatchRecord:
        """Store a new batch over the lines of `content`, which may be deleted afterwards."""
        parent = folder_of(self._folder, spec.owner)
        incoming = parent / f".incoming-{secrets.token_hex(8)}"
        incoming.mkdir(parents=True, mode=0o700)
        try:
            try:
                os.link(content, incoming / _INPUT)
            except OSError:  # a file system without links, or another one
                shutil.copyfile(content, incoming / _INPUT)
            write_whole(incoming / _BATCH, json.dumps(asdict(spec)).encode())
            write_whole(incoming / _STATE, BatchState().to_json())
            incoming.rename(parent / spec.id)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return self.get(spec.owner, spec.id)

    def get(self, owner: str, batch_id: str) -> BatchRecord:
        """Return a batch. Raises BatchNotFound."""
        if _ID.fullmatch(batch_id):
            with contextlib.suppress(FileNotFoundError):
                return _read(folder_of(self._folder, owner) / batch_id)
        raise BatchNotFound(f"there is no batch {batch_id[:80]!r}; POST /v1/batches makes one")

    def all(self, owner: str) -> list[BatchRecord]:
        """List an owner's batches, the newest first."""
        found = map(_read, self._folders(folder_of(self._folder, owner)))
        return sorted(found, key=lambda one: (-one.spec.created_at, one.spec.id))

    def open(self) -> list[BatchRecord]:
        """List the batches of all owners that are not over, the oldest first."""
        found = (_read(one) for parent in self._folder.glob("*") for one in self._folders(parent))
        batches = (one for one in found if not one.state.status.is_over)
        return sorted(batches, key=lambda one: (one.spec.created_at, one.spec.id))

    def cancel(self, owner: str, batch_id: str) -> BatchRecord:
        """Ask for the end of a batch; nothing happens to one that is over. Raises BatchNotFound."""
        batch = self.get(owner, batch_id)
        if not batch.state.status.is_over:
            (batch.folder / _CANCEL).touch()
        return self.get(owner, batch_id)

    def sweep(self, left_over_s: float = 3_600.0) -> None:
        """Remove what crashes have left."""
        for path in self._folder.glob("*/.incoming-*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > left_over_s:
                    shutil.rmtree(path)

    def _folders(self, parent: Path) -> list[Path]:
        return [path for path in parent.glob("batch_*") if _ID.fullmatch(path.name)]


def new_batch_id() -> str:
    """Make an id."""
    return f"batch_{secrets.token_hex(16)}"


def _read(folder: Path) -> BatchRecord:
    spec = BatchSpec(**json.loads((folder / _BATCH).read_bytes()))
    state = BatchState.from_json((folder / _STATE).read_bytes())
    cancelled_at = None
    with contextlib.suppress(FileNotFoundError):
        cancelled_at = int((folder / _CANCEL).stat().st_mtime)
    return BatchRecord(spec, state, folder, cancelled_at)
