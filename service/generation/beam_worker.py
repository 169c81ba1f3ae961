"""The thread that drives beam searches: a batch of its own for each, a few steps at a time.

It runs beside the engine's thread and shares nothing with it but the program's weights.
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
from service.generation.request import Chunk, GenerationRequest
from service.generation.sampling import logsumexp
from service.models.step import Batch, StepProgram

TURN_STEPS = 32
"""The most steps of one search before the next one has its turn."""

TAKING_TURNS = 8
"""How many searches are under way at a time, each with a batch in memory; others wait."""

SEARCH_LIMIT = 256
"""Searches under way or waiting at most."""

_log = logging.getLogger(__name__)


class BeamListener(Protocol):
    """Receives a search's chunks in the event loop. The worker's thread reads `is_over`."""

    @property
    def is_over(self) -> bool:
        """Whether no more chunks are wanted."""
        ...

    def deliver(self, news: Sequence[tuple[int, Chunk]], *, is_last: bool) -> None:
        """Receive the new chunks of some completions, each with its rank."""
        ...

    def fail(self, error: CarouselError) -> None:
        """End with an error. Does nothing after the end."""
        ...


@dataclass(slots=True, eq=False)
class _Task:
    """A search in its thread."""

    listener: BeamListener
    request: GenerationRequest
    params: BeamParams
    search: BeamSearchState | None = None
    batch: Batch | None = None

    @property
    def is_late(self) -> bool:
        """Whether the time is up."""
        request = self.request
        has_passed = request.deadline_s is not None and time.time() >= request.deadline_s
        return has_passed or len(request.prompt) > 1


class BeamWorker:
    """One model's beam searches. `admit`, `enter` and `leave` belong to the event loop."""

    def __init__(
        self,
        program: StepProgram,
        texts: Sequence[str],
        never_drawn: Sequence[int],
        tell: Callable[[Callable[[], None]], None],
        name: str,
    ) -> None:
        """`texts` is the text of every token; `tell` has the event loop call something."""
        self._program, self._tell = program, tell
        self._texts, self._never_drawn = texts, never_drawn
        self._admitted: set[BeamListener] = set()
        self._line: deque[_Task] = deque()
        self._changed = threading.Condition()  # guards the line
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name=f"beams-{name}", daemon=True)

    def warm_up(self) -> None:
        """Take one step for nobody, so that whatever is compiled late is compiled now."""
        batch = self._program.new_batch(1)
        self._program.step(batch, 1)
        logsumexp(batch.logits)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """End the thread after the turn that it is at."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._line.clear()

    @property
    def running(self) -> int:
        """How many take turns, the prompts of some of them still being fed."""
        return min(len(self._admitted), TAKING_TURNS)

    @property
    def waiting(self) -> int:
        """How many wait for others to end."""
        return len(self._admitted) - self.running

    def admit(self, listener: BeamListener) -> None:
        """Promise a search a place.

        Raises:
            Overloaded: there are too many.

        """
        if len(self._admitted) >= SEARCH_LIMIT:
            raise Overloaded(
                f"Model is overloaded: {len(self._admitted)} beam searches run or wait, which is "
                "the limit; try again later"
            )
        self._admitted.add(listener)

    def submit(
        self, listener: BeamListener, request: GenerationRequest, params: BeamParams
    ) -> None:
        """Begin a search that is admitted. Of its prompt the last token is left.

        Where more is left its time is up, and its text is empty.
        """
        with self._changed:
            self._line.append(_Task(listener, request, params))
            self._changed.notify()

    def remove(self, listener: BeamListener) -> None:
        """Give a place free: the search is over."""
        self._admitted.discard(listener)

    # -- the thread

    def _run(self) -> None:
        while (task := self._next()) is not None:
            try:
                is_over = self._take_turn(task)
            except GenerationFailed as error:
                self._fail(task.listener, error)
            except Exception:  # noqa: BLE001 (whatever it was, the listener has to hear of it)
                _log.exception("a beam search has failed")
                self._fail(
                    task.listener, GenerationFailed("the beam search has failed; try without beams")
                )
            else:
                if not is_over:
                    with self._changed:
                        self._line.insert(TAKING_TURNS - 1, task)

    def _next(self) -> _Task | None:
        """Wait for work; None when it is closing."""
        with self._changed:
            while not self._is_closing:
                if self._line:
                    return self._line.popleft()
                self._changed.wait()
        return None

    def _take_turn(self, task: _Task) -> bool:
        """Take a search's next steps and tell what came of them; True where it is over.

        The younger it is, the fewer steps: its first characters are wanted soonest.
        """
        search, batch = self._begun(task)
        for _ in range(max(1, min(TURN_STEPS, search.length))):
            if search.is_over:
                break
            if task.listener.is_over:
                return True
            if task.is_late:
                search.end_here()
                break
            _step(self._program, batch, search)
        is_last, news = search.is_over, []
        if is_last:
            news = [*enumerate(search.texts())]
        elif task.params.n == 1:  # else there may turn out to be fewer texts
            certain = search.take_certain()
            news = [(0, certain)] if certain.tokens else []
        if news:
            self._tell(lambda: task.listener.deliver(news, is_last=is_last))
        return is_last

    def _begun(self, task: _Task) -> tuple[BeamSearchState, Batch]:
        if task.search is None or task.batch is None:
            task.search = BeamSearchState(task.request, task.params, self._texts, self._never_drawn)
            task.batch = self._program.new_batch(task.params.width)
            task.batch.put(0, task.request.initial_state)
            task.batch.tokens[0] = task.request.prompt[-1]
        return task.search, task.batch

    def _fail(self, listener: BeamListener, error: CarouselError) -> None:
        self._tell(lambda: listener.fail(error))


def _step(program: StepProgram, batch: Batch, search: BeamSearchState) -> None:
    """One step of all live texts; their states go along with what goes on from them."""
    program.step(batch, search.rows)
    rows, tokens = search.advance(batch.logits[: search.rows])
    if rows != list(range(len(rows))):
        for states in batch.states:
            states[: len(rows)] = states[rows]
    batch.tokens[: len(rows)] = tokens
