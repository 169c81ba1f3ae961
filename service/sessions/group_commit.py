"""Group commit: one round trip commits the new tokens of all running turns.

While one commit is in flight, new tokens accumulate for the next, so the store's latency sets the
size of a group and no timer is needed.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Protocol

from service.errors import CarouselError, StoreUnavailable
from service.sessions.store import Store
from service.sessions.store_replies import CommitEntry, random_id

_log = logging.getLogger(__name__)


class CommitSource(Protocol):
    """A turn with tokens to commit."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended: it has nothing more to commit."""
        ...

    def entry(self, version: str, number: int) -> CommitEntry:
        """Return the uncommitted tokens; called again only after the outcome is known."""
        ...

    def committed(self, outcome: str, position: int, version: str) -> None:
        """Receive the outcome of the last entry."""
        ...

    def commit_unknown(self, error: CarouselError) -> None:
        """Receive the error that leaves the outcome of the last entry unknown."""
        ...


class GroupCommit:
    """Commits for every turn of a process. Belongs to one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sources: dict[CommitSource, None] = {}  # in the order of their first token
        self._has_work = asyncio.Event()

    def add(self, source: CommitSource) -> None:
        """Include a source in the next commit."""
        self._sources[source] = None
        self._has_work.set()

    async def run(self) -> None:
        """Commit until cancelled."""
        while True:
            await self._has_work.wait()
            try:
                await self.flush()
            except Exception:  # noqa: BLE001 (the other turns need the loop)
                _log.exception("internal error in the group commit")

    async def flush(self) -> None:
        """Commit what has been added so far."""
        sources = [source for source in self._sources if not source.is_over]
        self._sources.clear()
        self._has_work.clear()
        if not sources:
            return
        version, entries = random_id(), {}
        for i, source in enumerate(sources):
            with _errors_reported_to(source):
                entries[source] = source.entry(version, i)
        outcomes: Iterable[tuple[str, int]] = ()
        with _errors_reported_to(*entries):
            outcomes = await self._store.commit(version, list(entries.values()))
        for source, (outcome, position) in zip(entries, outcomes, strict=False):
            with _errors_reported_to(source):
                source.committed(outcome, position, version)


@contextlib.contextmanager
def _errors_reported_to(*sources: CommitSource) -> Iterator[None]:
    """Report an error to these sources only, so that no other turn is affected."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        if not isinstance(error, CarouselError):
            _log.exception("a commit has failed")
            error = StoreUnavailable("the commit has failed; the server's log has the error")
        for source in sources:
            source.commit_unknown(error)
