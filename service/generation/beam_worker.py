"""The thread that runs beam searches round-robin: a batch for each, a few steps at a time.

It runs beside the engine's thread and shares only the program's weights with it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.errors import CarouselError, GenerationFailed, Overloaded
from service.generation.beams import BeamParams, BeamSearchState
from service.generation.config import EngineConfig
from service.generation.request import Chunk, GenerationRequest
from service.generation.softmax import logsumexp
from service.generation.token_texts import CHARACTERS, TextRules
from service.models.step import Batch, StepProgram

_log = logging.getLogger(__name__)


def _post_nothing(_: Callable[[], None]) -> None:
    """Call nothing: the worker is closed."""


class BeamListener(Protocol):
    """Receives a search's chunks in the event loop. The worker's thread reads `is_over`."""

    @property
    def is_over(self) -> bool:
        """Whether no more chunks are wanted."""

    def deliver(self, updates: Sequence[tuple[int, Chunk]], *, is_last: bool) -> None:
        """Receive the new chunks of some completions, each with its rank."""

    def fail(self, error: CarouselError) -> None:
        """End with an error. Does nothing after the end."""


@dataclass(slots=True, eq=False)
class _Task:
    """One search and its batch."""

    listener: BeamListener
    request: GenerationRequest
    params: BeamParams
    search: BeamSearchState | None = None
    batch: Batch | None = None

    @property
    def must_end_now(self) -> bool:
        """Whether the deadline has passed, now or during the prompt."""
        request = self.request
        has_passed = request.deadline_s is not None and time.time() >= request.deadline_s
        return has_passed or len(request.prompt) > 1


class BeamWorker:
    """Runs one model's beam searches. Not thread-safe: one event loop only."""

    def __init__(
        self,
        program: StepProgram,
        texts: Sequence[str],
        suppressed_ids: Sequence[int],
        post: Callable[[Callable[[], None]], None],
        config: EngineConfig,
        name: str,
        rules: TextRules = CHARACTERS,
    ) -> None:
        """`texts` is the text of every token as `rules` say; `post` calls in the event loop."""
        self._program, self._post, self._config = program, post, config
        self._texts, self._rules, self._suppressed_ids = texts, rules, suppressed_ids
        self._name = name
        self._admitted: set[BeamListener] = set()
        self._queue: deque[_Task] = deque()
        self._condition = threading.Condition()  # guards the queue
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name=f"beams-{name}", daemon=True)

    def warm_up(self) -> None:
        """Take one step, so that everything is compiled before the first search."""
        batch = self._program.new_batch(1)
        self._program.step(batch, 1)
        logsumexp(batch.logits)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread after its current turn, and free the program."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._queue.clear()
        # Else the engine would refer to itself, and stay in memory until a collection.
        self._post = _post_nothing
        vars(self).pop("_program", None)  # a stream may keep the engine for a while

    @property
    def running(self) -> int:
        """How many searches run, those counted whose prompt is still processed."""
        return min(len(self._admitted), self._config.max_beam_searches)

    @property
    def waiting(self) -> int:
        """How many searches wait."""
        return len(self._admitted) - self.running

    def admit(self, listener: BeamListener) -> None:
        """Reserve capacity for a search. Raises Overloaded if too many searches run or wait."""
        if len(self._admitted) >= self._config.beam_search_limit:
            raise Overloaded(
                f"Model is overloaded: {len(self._admitted)} beam searches run or wait, which is "
                f"the limit of {self._name}; try again later"
            )
        self._admitted.add(listener)

    def submit(
        self, listener: BeamListener, request: GenerationRequest, params: BeamParams
    ) -> None:
        """Start an admitted search, whose prompt is processed up to its last token.

        If more of the prompt is left, its deadline has passed, and its completion is empty.
        """
        with self._condition:
            self._queue.append(_Task(listener, request, params))
            self._condition.notify()

    def remove(self, listener: BeamListener) -> None:
        """Release the capacity of a search."""
        self._admitted.discard(listener)

    # -- the thread

    def _run(self) -> None:
        while (task := self._next()) is not None:
            try:
                is_over = self._take_turn(task)
            except GenerationFailed as error:
                self._fail(task.listener, error)
            except Exception:  # noqa: BLE001 (the search has to end with an error)
                _log.exception("a beam search failed")
                self._fail(
                    task.listener, GenerationFailed("the beam search has failed; try without beams")
                )
            else:
                if not is_over:
                    with self._condition:
                        self._queue.insert(self._config.max_beam_searches - 1, task)

    def _next(self) -> _Task | None:
        """Wait for a search; None when the worker is closing."""
        with self._condition:
            while not self._is_closing:
                if self._queue:
                    return self._queue.popleft()
                self._condition.wait()
        return None

    def _take_turn(self, task: _Task) -> bool:
        """Take a search's next steps and deliver the result; True if the search is over.

        A short completion gets few steps, so that its first tokens come soon.
        """
        search, batch = self._prepared(task)
        for _ in range(max(1, min(self._config.beam_slice_steps, search.length))):
            if search.is_over:
                break
            if task.listener.is_over:
                return True
            if task.must_end_now:
                search.end_here()
                break
            _step(self._program, batch, search)
        is_last, updates = search.is_over, []
        if is_last:
            updates = [*enumerate(search.completions())]
        elif task.params.n == 1:  # of several there may turn out to be fewer
            certain = search.take_certain()
            updates = [(0, certain)] if certain.tokens else []
        if updates:
            self._post(lambda: task.listener.deliver(updates, is_last=is_last))
        return is_last

    def _prepared(self, task: _Task) -> tuple[BeamSearchState, Batch]:
        if task.search is None or task.batch is None:
            task.search = BeamSearchState(
                task.request, task.params, self._texts, self._suppressed_ids, self._rules
            )
            task.batch = self._program.new_batch(task.params.width)
            task.batch.put(0, task.request.initial_state)
            task.batch.tokens[0] = task.request.prompt[-1]
        return task.search, task.batch

    def _fail(self, listener: BeamListener, error: CarouselError) -> None:
        self._post(lambda: listener.fail(error))


def _step(program: StepProgram, batch: Batch, search: BeamSearchState) -> None:
    """One step of all live hypotheses; each new one gets a copy of its parent's state."""
    program.step(batch, search.rows)
    rows, tokens = search.advance(batch.logits[: search.rows])
    if rows != list(range(len(rows))):
        batch.take(rows)
    batch.tokens[: len(rows)] = tokens
