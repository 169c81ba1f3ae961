"""The output of a batch while it is written: rows in the order of their lines, each whole."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Self

from service.batch.line import BatchLine
from service.batch.row import head_of, is_failed
from service.errors import Validation

_PIECE_BYTES = 1024**2


class BatchOutput:
    """A file of rows that one process writes. Methods block; for one thread.

    A killed process leaves whole rows and at most one that is not; a row's head says which line it
    is of, so what is there can be continued.
    """

    def __init__(self, path: Path) -> None:
        """Open the file or make it. Raises Validation where another process writes it."""
        self.path = path
        self.rows = self.failed_rows = 0
        self._file = path.open("a+b")
        self.size_bytes = 0
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise Validation(f"another process writes {path}; wait for its end") from None

    def resume(self, lines: Iterator[BatchLine]) -> Iterator[BatchLine]:
        """Return those of `lines` that have no row yet, and cut off a row that is not whole.

        Raises Validation where a row is not that of its line: nothing is changed then.
        """
        self._file.seek(0)
        while row := self._file.readline(_PIECE_BYTES):
            line = next(lines, None)
            if line is None:
                raise Validation(
                    f"{self.path} has more rows than there are lines: it is of another input; "
                    "give another output"
                )
            head = head_of(line)
            if not head.startswith(row[: len(head)]):
                raise Validation(
                    f"row {self.rows + 1} of {self.path} is not that of line {line.number}: it is "
                    "of another input, another model or other options; give another output"
                )
            size_bytes = len(row)
            while not row.endswith(b"\n") and (more := self._file.readline(_PIECE_BYTES)):
                size_bytes, row = size_bytes + len(more), row[-64:] + more
            if not row.endswith(b"\n"):
                self._file.truncate(self.size_bytes)
                return chain((line,), lines)
            self._count(row)
            self.size_bytes += size_bytes
        return lines

    def write(self, row: bytes) -> None:
        """Add a row. Raises OSError where the disk is full."""
        self._file.write(row)
        self._file.flush()
        self._count(row)
        self.size_bytes += len(row)

    def sync(self) -> None:
        """Have the system write everything to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, and let another process write it."""
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _count(self, row: bytes) -> None:
        self.rows += 1
        self.failed_rows += is_failed(row)
