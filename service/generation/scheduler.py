"""Who is in the batch, for how many steps, and what came of it: pure decisions over a slot table.

The table's rows are in three runs: `running`, which every step computes, then `paused`, whose
states wait, then free ones. A row changes its run by trading places with the run's edge, so the
running rows are always the first ones and nothing is ever padded.

    plan  → the changes to the table, what to feed, and how many steps to go
    apply → what each generation got out of those steps

There is no clock, no thread and no I/O here; whoever drives this owns those (`engine.py`).
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from service.errors import Overloaded
from service.generation.request import (
    Chunk,
    Finish,
    FinishReason,
    GenerationRequest,
    Token,
)
from service.generation.sampling import FAILED, MAX_STEPS, Samples
from service.generation.stopping import HeldTokens, TokenWithTop
from service.models.step import State

Key = object

NOT_FINITE = "the network's logits are not finite numbers; the model's weights are damaged"

KEEP_EVERY = 256
"""Tokens between two states that a running generation shows; a cancelled one goes on from there."""

ROW_STEPS = 1_024
"""Rows times steps of a burst at most: what bounds the wait of a newcomer in a full batch."""


@dataclass(frozen=True, slots=True)
class Swap:
    """Two rows trade places."""

    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Start:
    """A request enters a row that was free, in its state, fed its first prompt token."""

    row: int
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class Feed:
    """A row takes these tokens, one after each step, before it draws.

    The first `silent` are of its prompt; the others count as drawn.
    """

    row: int
    tokens: Sequence[int]
    silent: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One burst: do the changes in order, feed, then take `steps` steps with the first `rows`."""

    changes: tuple[Swap | Start, ...]
    feeds: tuple[Feed, ...]
    rows: int
    steps: int
    keeps: tuple[tuple[int, int], ...] = ()  # rows whose state is kept, and after which step


@dataclass(frozen=True, slots=True)
class Progress:
    """What a burst did for one generation. With a `failure` there is no more to come."""

    key: Key
    chunk: Chunk
    failure: str | None = None

    @property
    def is_last(self) -> bool:
        """Whether the generation is over."""
        return self.failure is not None or self.chunk.finish is not None


@dataclass(slots=True)
class _Row:
    """One generation in the table."""

    key: Key
    request: GenerationRequest
    held: HeldTokens | None  # with a stop string or a deadline
    fed: int = 1  # prompt tokens that have gone in, or lie ready to
    drawn: int = 0
    is_over: bool = False
    is_complete: bool = False  # whether its constraint lets nothing follow
    latest: list[TokenWithTop] = field(default_factory=list)  # held for a deadline, older than held
    state: State | None = None  # the latest that may be shown

    @property
    def consumed(self) -> int:
        """The position of the row's state; the last token lies ready and is not in it."""
        origin = self.request.initial_state
        return (origin.position if origin else 0) + self.fed + self.drawn - 1

    @property
    def unfed(self) -> int:
        return len(self.request.prompt) - self.fed

    @property
    def steps_left(self) -> int:
        return self.unfed + self.request.max_new_tokens - self.drawn

    def keeps_state_after(self, steps: int) -> bool:
        """Whether the state is worth its copy: at the end, where there may be one, and at times."""
        if not self.request.return_state:
            return False
        may_end = bool(self.request.stop) or self.request.constraint is not None
        is_end = steps == self.steps_left or (may_end and steps > self.unfed)
        return is_end or (self.consumed + steps) // KEEP_EVERY > self.consumed // KEEP_EVERY

    @property
    def end(self) -> FinishReason | None:
        """Why it is at its end, if it is; stop strings aside."""
        if self.is_complete:
            return FinishReason.EOS_TOKEN
        return FinishReason.LENGTH if self.drawn == self.request.max_new_tokens else None

    @property
    def ripeness(self) -> int:
        """Steps to the first character, or, where it is out, how many are."""
        return self.drawn or self.unfed + 1


class Scheduler:
    """The slot table and the line before it. Not safe for threads by itself."""

    def __init__(self, texts: Sequence[str], capacity: int, queue_limit: int) -> None:
        """`texts` is the text of every token, for stop strings."""
        self._texts = texts
        self._capacity, self._queue_limit = capacity, queue_limit
        self._rows: list[_Row] = []
        self._n_running = 0
        self._by_key: dict[Key, _Row] = {}
        self._waiting: OrderedDict[Key, GenerationRequest] = OrderedDict()
        self._to_pause: set[Key] = set()
        self._to_resume: set[Key] = set()

    @property
    def rows(self) -> int:
        """How many generations are in the table, running or paused."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """How many are in the line."""
        return len(self._waiting)

    def submit(self, key: Key, request: GenerationRequest) -> None:
        """Put a request into the line."""
        self._waiting[key] = request

    def check_capacity(self, n: int = 1, reserved: int = 0) -> None:
        """Check that the queue has places for `n` more beside those `reserved`.

        Raises:
            Overloaded: it has not.

        """
        waiting, limit = len(self._waiting) + reserved, self._queue_limit
        if waiting + n > limit:
            raise Overloaded(
                f"Model is overloaded: {self.rows} generations run and {waiting} wait; {n} more "
                f"would exceed the limit of {limit} that wait; try again later"
            )

    def finish(self, key: Key) -> Progress | None:
        """Let a generation end with what it has, for want of time; None where it is over."""
        if self._waiting.pop(key, None) is not None:
            return Progress(key, Chunk((), (), finish=Finish(FinishReason.LENGTH, 0)))
        row = self._by_key.get(key)
        if row is None or row.is_over:
            return None
        row.is_over = True
        shown = _take_all(row)
        return Progress(key, _chunk(row, shown, Finish(FinishReason.LENGTH, row.drawn), ()))

    def cancel(self, key: Key) -> None:
        """Let a generation leave before the next step; nothing more is said of it."""
        self._waiting.pop(key, None)
        if key in self._by_key:
            self._by_key[key].is_over = True

    def pause(self, key: Key) -> None:
        """Let a generation keep its place but take no steps."""
        self._to_resume.discard(key)
        self._to_pause.add(key)

    def resume(self, key: Key) -> None:
        """Let a paused generation go on."""
        self._to_pause.discard(key)
        self._to_resume.add(key)

    # -- plan

    def plan(self) -> Plan | None:
        """Decide the next burst; None where no row can run."""
        changes: list[Swap | Start] = []
        self._let_leave(changes)
        self._pause_and_resume(changes)
        self._let_enter(changes)
        running = self._rows[: self._n_running]
        if not running:
            return Plan(tuple(changes), (), 0, 0) if changes else None
        steps = self._burst(running)
        feeds, keeps = [], []
        for i, row in enumerate(running):
            if row.unfed or row.drawn < len(row.request.forced_tokens):
                feeds.append(_feed(i, row, steps))
            taken = min(steps, row.steps_left)
            if taken and row.keeps_state_after(taken):
                keeps.append((i, taken - 1))
        return Plan(tuple(changes), tuple(feeds), len(running), steps, tuple(keeps))

    def _let_leave(self, changes: list[Swap | Start]) -> None:
        for i in reversed(range(len(self._rows))):
            if not self._rows[i].is_over:
                continue
            if i < self._n_running:
                self._n_running -= 1
                self._swap(changes, i, self._n_running)
                i = self._n_running  # noqa: PLW2901 (the row has moved)
            self._swap(changes, i, len(self._rows) - 1)
            del self._by_key[self._rows.pop().key]

    def _pause_and_resume(self, changes: list[Swap | Start]) -> None:
        if not self._to_pause and not self._to_resume:
            return
        for i in reversed(range(self._n_running)):
            if self._rows[i].key in self._to_pause:
                self._n_running -= 1
                self._swap(changes, i, self._n_running)
        for i in range(self._n_running, len(self._rows)):
            if self._rows[i].key in self._to_resume:
                self._swap(changes, i, self._n_running)
                self._n_running += 1
        self._to_pause.clear()
        self._to_resume.clear()

    def _let_enter(self, changes: list[Swap | Start]) -> None:
        while self._waiting and len(self._rows) < self._capacity:
            key, request = self._waiting.popitem(last=False)
            changes.append(Start(len(self._rows), request))
            self._by_key[key] = _new_row(key, request)
            self._rows.append(self._by_key[key])
            self._swap(changes, len(self._rows) - 1, self._n_running)
            self._n_running += 1

    def _swap(self, changes: list[Swap | Start], a: int, b: int) -> None:
        if a != b:
            changes.append(Swap(a, b))
            self._rows[a], self._rows[b] = self._rows[b], self._rows[a]

    @staticmethod
    def _burst(running: Sequence[_Row]) -> int:
        """How many steps to go before looking up.

        A lone stream sees its first character at once and then ever longer bursts; n rows go n
        steps even where someone waits for a first character, because each look costs something
        for every row.
        """
        most = max(1, min(MAX_STEPS, ROW_STEPS // len(running)))
        least = min(most, len(running))
        steps = max(least, min(most, *(row.ripeness for row in running)))
        return min(steps, max(row.steps_left for row in running))

    # -- apply

    def apply(
        self, plan: Plan, draws: Samples, kept: Mapping[int, tuple[npt.NDArray[Any], ...]]
    ) -> list[Progress]:
        """Take in what the planned burst drew; return the news, a row each that has any.

        `draws` has `plan.rows` rows of `plan.steps` columns. The columns that a row spent on its
        prompt, and those after its end, mean nothing. `kept` has what `plan.keeps` asked for.
        """
        fed = {feed.row: feed.silent for feed in plan.feeds}
        news = []
        for i, row in enumerate(self._rows[: plan.rows]):
            first = fed.get(i, 0)
            row.fed += first
            stop = min(plan.steps, first + row.request.max_new_tokens - row.drawn)
            is_consumed = not (row.unfed or row.request.max_new_tokens)  # that was all it wanted
            if row.is_over:
                continue
            if stop <= first and not is_consumed:
                if i in kept:  # of the prompt so far
                    row.state = State(row.consumed, kept[i])
                    news.append(Progress(row.key, Chunk((), (), state=row.state)))
                continue
            tokens, state, failure = draws.tokens[i, first:stop].tolist(), kept.get(i), None
            row.is_complete = bool(draws.is_over[i]) and not row.unfed
            if tokens and min(tokens) < 0:
                end = next(k for k, token in enumerate(tokens) if token < 0)
                failure = NOT_FINITE if tokens[end] == FAILED else None
                tokens, stop, state = tokens[:end], first + end, None
            logprobs = draws.logprobs[i, first:stop].tolist()
            top = _top_tokens(draws, i, range(first, stop), self._n_top(row))
            progress = self._settle(row, tokens, logprobs, top, state, failure)
            row.is_over = progress.is_last
            news.append(progress)
        return news

    def _n_top(self, row: _Row) -> int:
        return min(row.request.top_tokens, len(self._texts))

    def _settle(
        self,
        row: _Row,
        tokens: list[int],
        logprobs: list[float],
        top: Sequence[Sequence[Token]],
        kept: tuple[npt.NDArray[Any], ...] | None,
        failure: str | None,
    ) -> Progress:
        if row.held is not None:
            return self._settle_held(row, row.held, tokens, logprobs, top, kept, failure)
        row.drawn += len(tokens)
        if kept is not None:
            row.state = State(row.consumed, kept)
        finish = None
        if failure is None and row.end is not None:
            finish = Finish(row.end, row.drawn)
        return Progress(row.key, Chunk(tokens, logprobs, top, finish, tokens, row.state), failure)

    def _settle_held(
        self,
        row: _Row,
        held: HeldTokens,
        tokens: list[int],
        logprobs: list[float],
        top: Sequence[Sequence[Token]],
        kept: tuple[npt.NDArray[Any], ...] | None,
        failure: str | None,
    ) -> Progress:
        """As `_settle`, of a text that holds something back.

        A stop string holds back what may begin it; a deadline the latest token, so that an end
        which nobody could foresee comes with a token, as the end of every other text does.
        """
        shown = row.latest
        finish, before = None, row.drawn
        for k, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            row.drawn += 1
            top_tokens = top[k] if top else ()
            shown += held.push(self._texts[token], Token(token, logprob), top_tokens)
            if held.stop is not None:
                finish = Finish(FinishReason.STOP_SEQUENCE, row.drawn, held.last, held.stop)
                break
        row.latest = []
        drawn = tokens[: row.drawn - before]
        if kept is not None and len(drawn) == len(tokens):
            row.state = State(row.consumed, kept)
        if finish is None and (failure or row.end is not None):
            shown += _take_all(row)
            finish = None if failure or row.end is None else Finish(row.end, row.drawn)
        elif finish is None and row.request.deadline_s is not None:
            shown, row.latest = shown[:-1], shown[-1:]
        chunk = _chunk(row, shown, finish, drawn)
        return Progress(row.key, chunk, failure if finish is None else None)


def _take_all(row: _Row) -> list[TokenWithTop]:
    """What a row has held back."""
    shown = row.latest + (row.held.release() if row.held else [])
    row.latest = []
    return shown


def _chunk(
    row: _Row,
    shown: Sequence[TokenWithTop],
    finish: Finish | None,
    drawn: Sequence[int],
) -> Chunk:
    return Chunk(
        [token.id for token, _ in shown],
        [token.logprob for token, _ in shown],
        [likeliest for _, likeliest in shown] if row.request.top_tokens else (),
        finish,
        drawn,
        row.state,
    )


def _new_row(key: Key, request: GenerationRequest) -> _Row:
    held = None
    if request.stop or request.deadline_s is not None:
        held = HeldTokens(request.stop, request.min_new_tokens, request.stop_context)
    return _Row(key, request, held, state=request.initial_state)


def _feed(i: int, row: _Row, steps: int) -> Feed:
    """What a row that has tokens to take takes in a burst."""
    silent = row.request.prompt[row.fed : row.fed + steps]
    again = row.request.forced_tokens[row.drawn : row.drawn + steps - len(silent)]
    return Feed(i, (*silent, *again) if again else silent, len(silent))


def _top_tokens(draws: Samples, row: int, steps: range, n: int) -> Sequence[Sequence[Token]]:
    if n == 0:
        return ()
    return [
        [
            Token(token, logprob)
            for token, logprob in zip(
                draws.top_tokens[row, step, :n].tolist(),
                draws.top_logprobs[row, step, :n].tolist(),
                strict=True,
            )
        ]
        for step in steps
    ]
