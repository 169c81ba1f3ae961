"""The group commit: new tokens of all running turns in one round trip, and only then sent.

While one commit is under way the tokens of the next gather, so the store's pace sets the size of
the groups and no timer does.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Protocol

from service.errors import CarouselError, StoreUnavailable
from service.sessions.store import CommitEntry, Store, new_stamp

_log = logging.getLogger(__name__)


class CommitSource(Protocol):
    """What has something to add to a session."""

    @property
    def is_over(self) -> bool:
        """Whether it has left: what it had to add is no longer wanted."""
        ...

    def entry(self, stamp: str, number: int) -> CommitEntry:
        """What is to be committed now; the writer waits for its settlement before the next."""
        ...

    def settle(self, outcome: str, position: int, stamp: str) -> None:
        """Hear what came of the last entry."""
        ...

    def lose(self, error: CarouselError) -> None:
        """Hear that nobody knows what came of the last entry."""
        ...


class GroupCommit:
    """Commits for every turn of a process. Belongs to one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writers: dict[CommitSource, None] = {}  # in the order of their first token
        self._has_work = asyncio.Event()

    def add(self, writer: CommitSource) -> None:
        """Say that a writer has something to commit."""
        self._writers[writer] = None
        self._has_work.set()

    async def run(self) -> None:
        """Commit until cancelled."""
        while True:
            await self._has_work.wait()
            try:
                await self.flush()
            except Exception:  # noqa: BLE001 (it must go on, for every other turn)
                _log.exception("the ledger has made a mistake")

    async def flush(self) -> None:
        """Commit what there is now."""
        writers = [writer for writer in self._writers if not writer.is_over]
        self._writers.clear()
        self._has_work.clear()
        if not writers:
            return
        stamp, entries = new_stamp(), {}
        for i, writer in enumerate(writers):
            with _heard_by(writer):
                entries[writer] = writer.entry(stamp, i)
        outcomes: Iterable[tuple[str, int]] = ()
        with _heard_by(*entries):
            outcomes = await self._store.commit(stamp, list(entries.values()))
        for writer, (outcome, position) in zip(entries, outcomes, strict=False):
            with _heard_by(writer):
                writer.settle(outcome, position, stamp)


@contextlib.contextmanager
def _heard_by(*writers: CommitSource) -> Iterator[None]:
    """Whatever goes wrong here, these writers lose by it and nobody else."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        if not isinstance(error, CarouselError):
            _log.exception("a commit has failed")
            error = StoreUnavailable("the store has refused a commit; the log says why")
        for writer in writers:
            writer.lose(error)
