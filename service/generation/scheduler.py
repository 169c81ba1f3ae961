"""Which generations are in the batch, and for how many steps: pure decisions over a slot table.

The table's rows are in three ranges: `running`, which every step computes, then `paused`, whose
states wait, then free ones. A row changes its range by a swap with the row at the range's edge, so
the running rows are always the first ones and nothing is ever padded.

    plan  → the changes to the table, the tokens to feed, and the number of steps
    apply → the result of those steps for each generation

There is no clock, no thread and no I/O here; the engine has those (`engine.py`).
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from service.errors import Overloaded
from service.generation.config import EngineConfig
from service.generation.plan import Feed, Key, Plan, Progress, Start, Swap
from service.generation.request import Chunk, Finish, FinishReason, GenerationRequest, Token
from service.generation.sampling import FAILED, MAX_STEPS, Samples
from service.generation.stopping import HeldTokens, TokenWithTop, chunk_of
from service.generation.token_texts import CHARACTERS, TextRules
from service.models.step import State

NOT_FINITE = "the network's logits are not finite numbers; the model's weights are damaged"


@dataclass(slots=True)
class _Row:
    """One generation in the table."""

    key: Key
    request: GenerationRequest
    held: HeldTokens | None  # with a stop string or a deadline
    may_end_early: bool  # before its `max_new_tokens`
    fed: int = 1  # prompt tokens that the network has consumed or gets in the next step
    generated: int = 0
    is_over: bool = False
    is_complete: bool = False  # by an end token, or because its constraint allows no further token
    latest: list[TokenWithTop] = field(default_factory=list)  # held for a deadline, older than held
    state: State | None = None  # the latest that may be returned

    @property
    def consumed(self) -> int:
        """The position of the row's state, which has not consumed the last token."""
        initial = self.request.initial_state
        return (initial.position if initial else 0) + self.fed + self.generated - 1

    @property
    def prompt_remaining(self) -> int:
        return len(self.request.prompt) - self.fed

    @property
    def steps_left(self) -> int:
        return self.prompt_remaining + self.request.max_new_tokens - self.generated

    def needs_snapshot_after(self, steps: int, every: int) -> bool:
        """Whether to copy the state: at the end, at a possible end, and `every` so many tokens."""
        if not self.request.return_state:
            return False
        is_possible_end = self.may_end_early and steps > self.prompt_remaining
        is_end = steps == self.steps_left or is_possible_end
        return is_end or (self.consumed + steps) // every > self.consumed // every

    @property
    def end(self) -> FinishReason | None:
        """The reason of its end, if it has ended otherwise than by a stop string."""
        if self.is_complete:
            return FinishReason.EOS_TOKEN
        return FinishReason.LENGTH if self.generated == self.request.max_new_tokens else None

    @property
    def steps_to_first_token(self) -> int:
        """Steps until the first token is generated; after it the number of generated tokens."""
        return self.generated or self.prompt_remaining + 1


class Scheduler:
    """The slot table and its queue. Not safe for several threads."""

    def __init__(
        self,
        texts: Sequence[str],
        config: EngineConfig,
        name: str = "model",
        rules: TextRules = CHARACTERS,
    ) -> None:
        """`texts` is the text of every token as `rules` say; `max_rows` is the table's size.

        `name` is the model's, for messages.
        """
        self._texts, self._rules, self._config, self._name = texts, rules, config, name
        self._rows: list[_Row] = []
        self._n_running = 0
        self._by_key: dict[Key, _Row] = {}
        self._waiting: OrderedDict[Key, GenerationRequest] = OrderedDict()
        self._to_pause: set[Key] = set()
        self._to_resume: set[Key] = set()

    @property
    def rows(self) -> int:
        """How many generations are in the slot table, running or paused."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """How many generations are in the queue."""
        return len(self._waiting)

    def submit(self, key: Key, request: GenerationRequest) -> None:
        """Add a request to the queue."""
        self._waiting[key] = request

    def check_capacity(self, n: int = 1, reserved: int = 0) -> None:
        """Check that `n` more fit into the queue beside those `reserved`. Raises Overloaded."""
        waiting, limit = len(self._waiting) + reserved, self._config.queue_limit
        if waiting + n > limit:
            raise Overloaded(
                f"Model is overloaded: {self.rows} generations run and {waiting} wait or have "
                f"reserved capacity; {n} more would exceed the limit of {limit} that wait for "
                f"{self._name}; try again later"
            )

    def finish(self, key: Key) -> Progress | None:
        """End a generation at its deadline with the tokens it has; None if it is over already."""
        if self._waiting.pop(key, None) is not None:
            return Progress(key, Chunk((), (), finish=Finish(FinishReason.LENGTH, 0)))
        row = self._by_key.get(key)
        if row is None or row.is_over:
            return None
        row.is_over = True
        finish = Finish(FinishReason.LENGTH, row.generated)
        return Progress(key, chunk_of(_take_all(row), row.request, finish, (), row.state))

    def cancel(self, key: Key) -> None:
        """Remove a generation before the next burst; it makes no more progress."""
        self._waiting.pop(key, None)
        if key in self._by_key:
            self._by_key[key].is_over = True

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
        changes: list[Swap | Start] = []
        self._remove_finished(changes)
        self._pause_and_resume(changes)
        self._start_waiting(changes)
        running = self._rows[: self._n_running]
        if not running:
            return Plan(tuple(changes), (), 0, 0) if changes else None
        steps = self._burst(running)
        feeds, snapshots = [], []
        for i, row in enumerate(running):
            request = row.request
            if row.prompt_remaining or row.generated < len(request.forced_tokens):
                prompt = request.prompt[row.fed : row.fed + steps]
                forced = request.forced_tokens[row.generated : row.generated + steps - len(prompt)]
                feeds.append(Feed(i, (*prompt, *forced) if forced else prompt, len(prompt)))
            taken = min(steps, row.steps_left)
            if taken and row.needs_snapshot_after(taken, self._config.state_copy_every):
                snapshots.append((i, taken - 1))
        return Plan(tuple(changes), tuple(feeds), len(running), steps, tuple(snapshots))

    def _remove_finished(self, changes: list[Swap | Start]) -> None:
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

    def _start_waiting(self, changes: list[Swap | Start]) -> None:
        while self._waiting and len(self._rows) < self._config.max_rows:
            key, request = self._waiting.popitem(last=False)
            changes.append(Start(len(self._rows), request))
            held, stops = None, bool(request.stop or request.stop_token_ids)
            if stops or request.deadline_s is not None:
                held = HeldTokens(request, self._texts, self._rules, request.stop_context)
            has_end = bool(self._rules.end_ids) and not request.ignore_eos
            may_end_early = stops or has_end or request.constraint is not None
            self._by_key[key] = _Row(key, request, held, may_end_early, state=request.initial_state)
            self._rows.append(self._by_key[key])
            self._swap(changes, len(self._rows) - 1, self._n_running)
            self._n_running += 1

    def _swap(self, changes: list[Swap | Start], a: int, b: int) -> None:
        if a != b:
            changes.append(Swap(a, b))
            self._rows[a], self._rows[b] = self._rows[b], self._rows[a]

    def _burst(self, running: Sequence[_Row]) -> int:
        """The number of steps of the next burst.

        A lone stream gets its first character after one step, then longer and longer bursts; n rows
        take n steps even if one of them waits for its first character, because each plan costs time
        for every row.
        """
        max_steps = max(1, min(MAX_STEPS, self._config.max_row_steps // len(running)))
        min_steps = min(max_steps, len(running))
        steps = max(min_steps, min(max_steps, *(row.steps_to_first_token for row in running)))
        return min(steps, max(row.steps_left for row in running))

    # -- apply

    def apply(
        self, plan: Plan, samples: Samples, states: Mapping[int, tuple[npt.NDArray[Any], ...]]
    ) -> list[Progress]:
        """Take in the results of the planned burst; return the progress of each row that made any.

        `samples` has `plan.rows` rows of `plan.steps` columns. The columns in which a row consumed
        its prompt, and those after its end, are undefined. `states` has `plan.snapshots`, by row.
        """
        fed = {feed.row: feed.n_prompt for feed in plan.feeds}
        updates = []
        for i, row in enumerate(self._rows[: plan.rows]):
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
            row.is_complete = bool(samples.is_over[i]) and not row.prompt_remaining
            if tokens and min(tokens) < 0:
                n = next(k for k, token in enumerate(tokens) if token < 0)
                failure = NOT_FINITE if tokens[n] == FAILED else None
                tokens, stop, state = tokens[:n], first + n, None
            logprobs = samples.logprobs[i, first:stop].tolist()
            n_top = min(row.request.top_tokens, len(self._texts))
            top = _top_tokens(samples, i, range(first, stop), n_top)
            if row.held is not None:
                progress = self._settle_held(row, tokens, logprobs, top, state, failure)
            else:
                row.generated += len(tokens)
                if state is not None:
                    row.state = State(row.consumed, state)
                end = None if failure else row.end
                finish = None if end is None else Finish(end, row.generated)
                chunk = Chunk(tokens, logprobs, top, finish, tokens, row.state)
                progress = Progress(row.key, chunk, failure)
            row.is_over = progress.is_last
            updates.append(progress)
        return updates

    def _settle_held(
        self,
        row: _Row,
        tokens: list[int],
        logprobs: list[float],
        top: Sequence[Sequence[Token]],
        arrays: tuple[npt.NDArray[Any], ...] | None,
        failure: str | None,
    ) -> Progress:
        """Return the progress of a generation with a stop string or a deadline.

        A stop string holds back the tokens that may belong to it. A deadline holds back the latest
        token, so that the end comes with a token, as every other end does.
        """
        held, shown = row.held, row.latest
        assert held is not None
        finish, n_before = None, row.generated
        for k, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            row.generated += 1
            top_tokens = top[k] if top else ()
            shown += held.push(Token(token, logprob), top_tokens)
            if held.stop is not None:
                finish = held.finish(row.generated)
                break
        row.latest = []
        sampled = tokens[: row.generated - n_before]
        if arrays is not None and len(sampled) == len(tokens):
            row.state = State(row.consumed, arrays)
        if finish is None and (failure or row.end is not None):
            shown += _take_all(row)
            finish = None if failure or row.end is None else Finish(row.end, row.generated)
        elif finish is None and row.request.deadline_s is not None:
            shown, row.latest = shown[:-1], shown[-1:]
        chunk = chunk_of(shown, row.request, finish, sampled, row.state)
        return Progress(row.key, chunk, failure if finish is None else None)


def _take_all(row: _Row) -> list[TokenWithTop]:
    """Return all tokens that a row holds back."""
    shown = row.latest + (row.held.release() if row.held else [])
    row.latest = []
    return shown


def _top_tokens(samples: Samples, row: int, steps: range, n: int) -> Sequence[Sequence[Token]]:
    if n == 0:
        return ()
    tokens = samples.top_tokens[row, steps.start : steps.stop, :n].tolist()
    logprobs = samples.top_logprobs[row, steps.start : steps.stop, :n].tolist()
    return [list(map(Token, *columns)) for columns in zip(tokens, logprobs, strict=True)]
