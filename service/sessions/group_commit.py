"""Group commit: one round trip commits the new tokens of all running turns.

While one commit is in flight, new tokens accumulate for the next, so the store's latency sets the
size of a group and no timer is needed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator

from service.errors import CarouselError, StoreUnavailable
from service.metrics.families import FIRST_TOKEN_S, STEP_ROWS
from service.metrics.histogram import Histogram
from service.sessions.running_turn import RunningTurn
from service.sessions.store import Store
from service.sessions.store_replies import random_id

_log = logging.getLogger(__name__)


class GroupCommit:
    """Commits for every turn of a process. Not thread-safe: one event loop only."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turns: dict[RunningTurn, None] = {}  # in the order of their first token
        self._has_work = asyncio.Event()
        self.seconds, self.turns = Histogram(FIRST_TOKEN_S), Histogram(STEP_ROWS)  # of a commit

    def add(self, turn: RunningTurn) -> None:
        """Include a turn in the next commit."""
        self._turns[turn] = None
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
        turns = [turn for turn in self._turns if not turn.is_over]
        self._turns.clear()
        self._has_work.clear()
        if not turns:
            return
        record_version, entries = random_id(), {}
        for i, turn in enumerate(turns):
            with _errors_reported_to(turn):
                entries[turn] = turn.take_entry(record_version, i)
        outcomes: Iterable[tuple[str, int] | CarouselError] = ()
        with _errors_reported_to(*entries):
            began_s = time.perf_counter()
            outcomes = await self._store.commit(record_version, list(entries.values()))
            self.seconds.observe(time.perf_counter() - began_s)
            self.turns.observe(len(entries))
        for turn, outcome in zip(entries, outcomes, strict=False):
            with _errors_reported_to(turn):
                if isinstance(outcome, CarouselError):
                    raise outcome
                turn.committed(*outcome, record_version)


@contextlib.contextmanager
def _errors_reported_to(*turns: RunningTurn) -> Iterator[None]:
    """Report an error to these turns only, so that no other turn is affected."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        if not isinstance(error, CarouselError):
            _log.exception("a commit has failed")
            error = StoreUnavailable("the commit has failed; the server's log has the error")
        for turn in turns:
            turn.commit_outcome_unknown(error)
