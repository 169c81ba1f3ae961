"""Which generations are in the batch, and for how many steps: pure decisions over a slot table.

The table's rows are in three ranges: `running`, which every step computes, then `paused`, whose
states wait, then free ones. A row changes its range by a swap with the row at the range's edge, so
the running rows are always the first ones and nothing is ever padded. Where generations wait for a
row, others give way after a time slice (`preemption.py`): they are saved, and wait for their turn.

    plan  → the changes to the table, the tokens to feed, and the number of steps
    apply → the result of those steps for each generation

There is no clock, no thread and no I/O here; the engine has those (`engine.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from service.errors import Overloaded
from service.generation.config import EngineConfig
from service.generation.engine_stats import EngineStats
from service.generation.fair_queue import FairQueue
from service.generation.fair_share import FairShare
from service.generation.plan import (
    Change,
    Feed,
    Key,
    Plan,
    Preempt,
    Progress,
    Restore,
    SavedRow,
    Start,
    Swap,
)
from service.generation.preemption import rows_to_preempt
from service.generation.request import Chunk, Finish, FinishReason, GenerationRequest, Token
from service.generation.reservation import NOTHING_RESERVED
from service.generation.row import TableRow
from service.generation.row_selector import RowSelector
from service.generation.sampling import ENDED, FAILED, Samples
from service.generation.stopping import chunk_of
from service.generation.token_texts import CHARACTERS, TextRules
from service.models.step import State

NOT_FINITE = "the network's logits are not finite numbers; the model's weights are damaged"


class Scheduler:
    """The slot table and its queue. Not safe for several threads."""

    def __init__(
        self,
        texts: Sequence[str],
        config: EngineConfig,
        name: str = "model",
        rules: TextRules = CHARACTERS,
    ) -> None:
        """`texts` is the text of every token as `rules` say; `name` is in messages."""
        self.stats = EngineStats()
        self._texts, self._rules, self._config, self._name = texts, rules, config, name
        self._rows: list[TableRow] = []
        self._n_running = 0
        self._by_key: dict[Key, TableRow] = {}  # those in the table and the preempted ones
        self._waiting: dict[Key, GenerationRequest] = {}  # those that have not begun
        self._queue: FairQueue[Key] = FairQueue()  # those, and the preempted ones
        self._share = FairShare(config)
        self._selector = RowSelector(self._share, config)
        self.bursts_ahead = self._selector.bursts_ahead
        self._to_pause: set[Key] = set()
        self._to_resume: set[Key] = set()

    @property
    def rows(self) -> int:
        """How many generations are in the slot table, running or paused."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """How many generations wait for a row; one that is paused has none, and waits for none."""
        return len(self._queue)

    def steps_left(self) -> int:
        """Return the steps of the running generation that has most, to its limit."""
        return max((row.steps_left for row in self._rows[: self._n_running]), default=0)

    def submit(self, key: Key, request: GenerationRequest) -> None:
        """Add a request to the queue."""
        self._waiting[key] = request
        self._queue.push(request.owner, key)

    def check_capacity(
        self, n: int = 1, owner: str = "", reserved: Mapping[str, int] = NOTHING_RESERVED
    ) -> None:
        """Check that `n` more of an owner fit into the queue. Raises Overloaded.

        `reserved` is how many more each owner may submit. While the queue is full, an owner with
        less than an equal part of it is still admitted, until twice the limit wait.
        """
        waiting, limit = self.waiting + sum(reserved.values()), self._config.queue_limit
        if waiting + n <= limit:
            return
        owners = {owner, *self._queue.owners, *reserved}
        own = self._queue.waiting_of(owner) + reserved.get(owner, 0)
        if len(owners) > 1 and own + n <= limit // len(owners) and waiting + n <= 2 * limit:
            return
        raise Overloaded(
            f"Model is overloaded: {self.rows} generations run and {waiting} wait or have "
            f"reserved capacity; {n} more would exceed the limit of {limit} that wait for "
            f"{self._name}; try again later"
        )

    def finish(self, key: Key) -> Progress | None:
        """End a generation at its deadline with the tokens it has; None if it is over already."""
        if self._waiting.pop(key, None) is not None:
            self._queue.remove(key)
            return Progress(key, Chunk((), (), finish=Finish(FinishReason.LENGTH, 0)))
        row = self._by_key.get(key)
        if row is None or row.is_over:
            return None
        self._end(row)
        finish = Finish(FinishReason.LENGTH, row.generated)
        return Progress(key, chunk_of(row.take_all(), row.request, finish, (), row.state))

    def cancel(self, key: Key) -> None:
        """Remove a generation before the next burst; it makes no more progress."""
        if self._waiting.pop(key, None) is not None:
            self._queue.remove(key)
        if key in self._by_key:
            self._end(self._by_key[key])

    def _end(self, row: TableRow) -> None:
        """Free the row at the next plan; one that is preempted has none to free."""
        row.is_over = True
        if row.saved is not None:
            self._queue.remove(row.key)
            del self._by_key[row.key]

    def pause(self, key: Key) -> None:
        """Let a generation keep its row but take no steps."""
        self._to_resume.discard(key)
        self._to_pause.add(key)

    def resume(self, key: Key) -> None:
        """Let a paused generation take steps again."""
        self._to_pause.discard(key)
        self._to_resume.add(key)

    # -- plan

    def plan(self) -> Plan | None:
        """Decide the next burst; None if no row can run and nothing changes."""
        changes: list[Change] = []
        self._remove_finished(changes)
        self._pause_and_resume(changes)
        if self._queue:
            self._preempt(changes)
            self._start_waiting(changes)
        if not self._n_running:
            return Plan(tuple(changes), (), 0, 0) if changes else None
        for a, b in self._selector.swaps(self._rows, self._n_running):
            self._swap(changes, a, b)
        first, last, steps = self._selector.select(self._rows, self._n_running)
        feeds, snapshots = [], []
        for i, row in enumerate(self._rows[first:last], first):
            request = row.request
            if row.prompt_remaining or row.generated < len(request.forced_tokens):
                prompt = request.prompt[row.fed : row.fed + steps]
                forced = request.forced_tokens[row.generated : row.generated + steps - len(prompt)]
                feeds.append(Feed(i, (*prompt, *forced) if forced else prompt, len(prompt)))
            taken = min(steps, row.steps_left)
            if taken and row.needs_snapshot_after(taken, self._config.state_copy_every):
                snapshots.append((i, taken - 1))
        return Plan(tuple(changes), tuple(feeds), last, steps, tuple(snapshots), first)

    def _remove_finished(self, changes: list[Change]) -> None:
        for i in reversed(range(len(self._rows))):
            if self._rows[i].is_over:
                del self._by_key[self._remove(changes, i).key]

    def _remove(self, changes: list[Change], i: int) -> TableRow:
        """Free a row. The rows after it may have changed their places, those before it have not."""
        if i < self._n_running:
            self._n_running -= 1
            self._share.remove(self._rows[i].owner)
            self._swap(changes, i, self._n_running)
            i = self._n_running
        self._swap(changes, i, len(self._rows) - 1)
        return self._rows.pop()

    def _pause_and_resume(self, changes: list[Change]) -> None:
        if not self._to_pause and not self._to_resume:
            return
        for i in reversed(range(self._n_running)):
            if self._rows[i].key in self._to_pause:
                self._n_running -= 1
                self._share.remove(self._rows[i].owner)
                self._swap(changes, i, self._n_running)
        for i in range(self._n_running, len(self._rows)):
            if self._rows[i].key in self._to_resume:
                self._swap(changes, i, self._n_running)
                self._share.add(self._rows[self._n_running].owner)
                self._n_running += 1
        for key in self._to_pause | self._to_resume:
            row = self._by_key.get(key)
            if row is not None and row.saved is not None:
                self._pause_preempted(row, is_paused=key in self._to_pause)
        self._to_pause.clear()
        self._to_resume.clear()

    def _pause_preempted(self, row: TableRow, *, is_paused: bool) -> None:
        if is_paused and not row.is_paused:
            self._queue.remove(row.key)
        elif row.is_paused and not is_paused:
            self._queue.push(row.owner, row.key, is_new=False)
        row.is_paused = is_paused

    def _preempt(self, changes: list[Change]) -> None:
        n_running = self._n_running  # before any row is removed
        for i in rows_to_preempt(self._rows, n_running, self._queue, self._config):
            saved = SavedRow()
            changes.append(Preempt(i, saved))
            row = self._remove(changes, i)
            row.saved, row.is_paused = saved, i >= n_running
            if not row.is_paused:
                self._queue.push(row.owner, row.key, is_new=False)

    def _start_waiting(self, changes: list[Change]) -> None:
        while self._queue and len(self._rows) < self._config.max_rows:
            key, n = self._queue.pop(), len(self._rows)
            row, request = self._by_key.get(key), self._waiting.pop(key, None)
            if request is not None:
                changes.append(Start(n, request))
                row = self._by_key[key] = TableRow.of(key, request, self._texts, self._rules)
            assert row is not None
            if row.saved is not None:
                changes.append(Restore(n, row.saved))
                row.saved, row.slice_start = None, row.steps
            self._rows.append(row)
            self._swap(changes, n, self._n_running)
            self._share.add(row.owner)
            self._n_running += 1

    def _swap(self, changes: list[Change], a: int, b: int) -> None:
        if a != b:
            changes.append(Swap(a, b))
            self._rows[a], self._rows[b] = self._rows[b], self._rows[a]

    # -- apply

    def apply(
        self, plan: Plan, samples: Samples, states: Mapping[int, tuple[npt.NDArray[Any], ...]]
    ) -> list[Progress]:
        """Take in the results of the planned burst; return the progress of each row that made any.

        `samples` has `plan.rows` rows, those of the burst last, of `plan.steps` columns. The
        columns in which a row consumed its prompt, and those after its end, are undefined.
        `states` has `plan.snapshots`, by row.
        """
        fed = {feed.row: feed.n_prompt for feed in plan.feeds}
        updates = []
        for i, row in enumerate(self._rows[plan.first : plan.rows], plan.first):
            first = fed.get(i, 0)
            row.fed += first
            stop = min(plan.steps, first + row.request.max_new_tokens - row.generated)
            is_consumed = not (row.prompt_remaining or row.request.max_new_tokens)  # only a prompt
            if row.is_over:
                continue
            if stop <= first and not is_consumed:
                if i in states:  # of the prompt so far
                    row.state = State(row.consumed, states[i])
                    updates.append(Progress(row.key, Chunk((), (), state=row.state)))
                continue
            tokens, state, failure = samples.tokens[i, first:stop].tolist(), states.get(i), None
            # A burst may be longer than the row: what it samples after its limit ends nothing.
            is_within = stop == plan.steps or samples.tokens[i, stop] == ENDED
            row.is_complete = bool(samples.is_over[i]) and is_within and not row.prompt_remaining
            if tokens and min(tokens) < 0:
                n = next(k for k, token in enumerate(tokens) if token < 0)
                failure = NOT_FINITE if tokens[n] == FAILED else None
                tokens, stop, state = tokens[:n], first + n, None
            logprobs = samples.logprobs[i, first:stop].tolist()
            n_top = min(row.request.top_tokens, len(self._texts))
            top = _top_tokens(samples, i, range(first, stop), n_top)
            if row.held is not None:
                progress = row.settle(tokens, logprobs, top, state, failure)
            else:
                row.generated += len(tokens)
                if state is not None:
                    row.state = State(row.consumed, state)
                end = None if failure else row.end
                finish = None if end is None else Finish(end, row.generated)
                chunk = Chunk(tokens, logprobs, top, finish, tokens, row.state)
                progress = Progress(row.key, chunk, failure)
            row.is_over = progress.is_last
            self.stats.generated_tokens += row.count()
            updates.append(progress)
        return updates


def _top_tokens(samples: Samples, row: int, steps: range, n: int) -> Sequence[Sequence[Token]]:
    if n == 0:
        return ()
    tokens = samples.top_tokens[row, steps.start : steps.stop, :n].tolist()
    logprobs = samples.top_logprobs[row, steps.start : steps.stop, :n].tolist()
    return [list(map(Token, *columns)) for columns in zip(tokens, logprobs, strict=True)]
