"""The thread that runs a scheduler and a program, and the streams of its results."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from service.errors import CarouselError, Draining, GenerationFailed
from service.generation.beam_worker import BeamListener, BeamWorker
from service.generation.config import EngineConfig
from service.generation.deadlines import Deadlines
from service.generation.deferred_call import DeferredCall
from service.generation.loop_burst import LoopBurst
from service.generation.plan import Plan, Progress
from service.generation.prompt_reader import PromptReader
from service.generation.request import GenerationRequest
from service.generation.reservation import Reservation, Reservations
from service.generation.sampling import Sampler
from service.generation.scheduler import Scheduler
from service.generation.stream import Stream
from service.generation.table import SlotTable
from service.generation.token_texts import TextRules, texts_of
from service.generation.undelivered import Undelivered
from service.models.step import StepProgram
from service.models.tokenizers.tokenizer import Tokenizer

_REFUSED = "the model is being unloaded or the server is stopping; retry on another server"
_UNFINISHED = "the model was unloaded or the server stopped before the generation was complete"

WINDOWS_PER_BURST = 4
"""How much longer a burst of a windowed model may take than one of the same network carried: each
of its steps is long, and the cost of a plan is small beside it."""

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Receives one generation's chunks in the event loop."""

    def deliver(self, progress: Progress) -> None:
        """Receive the result of a burst."""

    def fail(self, error: CarouselError) -> None:
        """End with an error. Does nothing after the end."""


class Engine:
    """Runs the generations of one model in one continuous batch.

    Not thread-safe: one event loop only. The batch runs in a thread of the engine.
    """

    def __init__(
        self,
        program: StepProgram,
        tokenizer: Tokenizer,
        config: EngineConfig,
        *,
        name: str,
        threads: int = 1,
    ) -> None:
        """`threads`: how many share a burst, but for the steps of a program with its own."""
        self.config = config
        size = program.vocabulary_size
        self.prompts = PromptReader(program)
        self.rows = rows = config.rows_of(size)
        self.texts, self.rules = texts, rules = texts_of(tokenizer), TextRules.of(tokenizer)
        suppressed, ends = tokenizer.suppressed_ids, tokenizer.end_ids
        self._table = SlotTable(program, Sampler(size, rows, suppressed, ends), rows, threads)
        self._fault_of = partial(_fault_of, vocabulary_size=size, steers=self._table.steers)
        steps = max(1, WINDOWS_PER_BURST * config.max_row_steps // self.prompts.steps_per_token)
        limits = replace(config, max_rows=rows, max_row_steps=min(config.max_row_steps, steps))
        self._scheduler = Scheduler(texts, limits, name, rules)
        self.stats = self._scheduler.stats
        self.beam_worker = BeamWorker(program, texts, suppressed, self._post, config, name, rules)
        self.beam_worker.warm_up()
        self._listeners: set[Listener | BeamListener] = set()
        self._reservations, self._deadlines = Reservations(), Deadlines()
        self._drained = asyncio.Event()  # set when a draining engine has no stream left
        self._loop: asyncio.AbstractEventLoop | None = None
        self._condition = threading.Condition()  # guards the scheduler between bursts
        self._loop_burst = LoopBurst(self._condition, self._scheduler, config.loop_burst_s)
        self._loop_burst.warm_up(self._table)
        self._submitted = DeferredCall()
        self._undelivered = Undelivered(self._condition, self._scheduler.bursts_ahead)
        self._is_closing = self._is_draining = self._is_drain_over = False
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)

    @property
    def running(self) -> int:
        """How many generations are in the slot table, and how many beam searches run."""
        return self._scheduler.rows + self.beam_worker.running

    @property
    def waiting(self) -> int:
        """How many generations and beam searches wait."""
        return self._scheduler.waiting + self.beam_worker.waiting

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._listeners)

    def start(self) -> None:
        """Start the threads, which deliver to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self.beam_worker.start()

    def submit(self, request: GenerationRequest) -> Stream:
        """Start a generation. Raises as `check_capacity`."""
        self.check_capacity(1, request.owner)
        return self.open_stream(request)

    def check_capacity(self, n: int = 1, owner: str = "") -> None:
        """Check that `n` more of an owner fit. Raises Overloaded, Draining, GenerationFailed."""
        if self.failure is not None:
            raise GenerationFailed(self.failure)
        if self._is_draining or self._is_closing:
            raise Draining(_REFUSED)
        self._scheduler.check_capacity(n, owner, self._reservations.by_owner)

    def reserve(self, n: int, owner: str = "") -> Reservation:
        """Reserve capacity for `n` later generations of an owner. Raises as `check_capacity`.

        With `n` 0 the reservation only makes a drain wait for it.
        """
        self.check_capacity(n, owner)
        return self._reservations.add(n, owner, self._check_empty)

    def open_stream(self, request: GenerationRequest) -> Stream:
        """Start a generation that was admitted before, and return its chunks."""
        stream = Stream(self, self.cancel, self.config.backlog_limit)
        self.submit_admitted(request, stream)
        return stream

    def submit_admitted(self, request: GenerationRequest, listener: Listener) -> None:
        """Start a generation that was admitted before: it is queued even if the queue is full."""
        if fault := self._fault_of(request):
            listener.fail(GenerationFailed(fault))
            return
        self._listeners.add(listener)
        request.timing.submitted()
        with self._condition:
            self._scheduler.submit(listener, self.prompts.read(request))
            self._deadlines.add(listener, request.deadline_s)
        self._submitted.soon(self._begin)
        # Since it was admitted, the engine may have ended all other streams.
        if self._is_drain_over or self._is_closing or self.failure is not None:
            self.cancel(listener)
            listener.fail(Draining("the model was closed before the generation began"))

    def admit_beam_search(self, listener: BeamListener, owner: str = "") -> None:
        """Admit an owner's beam search, which `beam_worker` runs once its prompt is processed.

        Raises as `check_capacity`, and Overloaded if there are too many beam searches.
        """
        self.check_capacity(1, owner)
        self.beam_worker.admit(listener)
        self._listeners.add(listener)

    def end_beam_search(self, listener: BeamListener) -> None:
        """Remove a beam search that has finished or is cancelled."""
        self.beam_worker.remove(listener)
        self._drop(listener)

    def cancel(self, listener: Listener | BeamListener) -> None:
        """Remove a generation from the batch before the next burst."""
        self._drop(listener)
        with self._condition:
            self._deadlines.drop((listener,))
            self._scheduler.cancel(listener)
            self._condition.notify()

    def pause(self, listener: Listener) -> None:
        """Stop a generation's steps until `resume`."""
        with self._condition:
            self._scheduler.pause(listener)

    def resume(self, listener: Listener) -> None:
        """Continue a paused generation."""
        with self._condition:
            self._scheduler.resume(listener)
            self._condition.notify()

    async def drain(self, timeout_s: float) -> None:
        """Accept no new work; wait for the open streams, and end them after `timeout_s`."""
        self._is_draining = True
        if self._listeners or self._reservations:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), timeout_s)
        self._is_drain_over = True
        self._end_streams(Draining, _UNFINISHED)

    def close(self) -> None:
        """Stop the threads. Streams that are still open fail."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()
        self.beam_worker.close()
        self._table.close()
        self.prompts.close()
        self._end_streams(Draining, "the model was closed before the generation was complete")

    # -- the engine's thread

    def _run(self) -> None:
        try:
            while (plan := self._next_plan()) is not None:
                if updates := self._compute(plan):
                    self._post(self._deliver, updates)
        except Exception:  # noqa: BLE001 (every stream has to end with an error)
            self._fail()

    def _compute(self, plan: Plan, *, is_threaded: bool = True) -> Sequence[Progress]:
        self.stats.begin(plan)
        began_s = time.perf_counter()
        samples, states = self._table.run(plan, is_threaded=is_threaded)
        with self._condition:
            self._loop_burst.measured(plan, time.perf_counter() - began_s, is_threaded=is_threaded)
            updates = self._scheduler.apply(plan, samples, states)
            self._deadlines.drop(one.key for one in updates if one.is_last)
            if updates:
                self._undelivered.add()
        return updates

    def _fail(self) -> None:
        _log.exception("the engine has failed")
        self.failure = "the model's engine has failed; the server has to be restarted"
        self._post(self._end_streams, GenerationFailed, self.failure)

    def _next_plan(self) -> Plan | None:
        """Wait for a plan; None when the engine is closing."""
        with self._condition:
            while not self._is_closing:
                self._finish_overdue()
                plan = None if self._undelivered.is_full else self._loop_burst.next_plan()
                if plan is not None:
                    return plan
                self._loop_burst.wait(self._deadlines.wait_s)
        return None

    def _finish_overdue(self) -> None:
        """End the generations whose deadline has passed."""
        ends = map(self._scheduler.finish, self._deadlines.take_overdue())
        updates = [one for one in ends if one is not None]
        if updates:
            self._undelivered.add()
            self._post(self._deliver, updates)

    def _post(self, callback, *args) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed: no stream is read any more
            _log.debug("the event loop was closed before the engine")

    # -- the event loop

    def _begin(self) -> None:
        try:  # what this pass of the event loop has submitted
            with self._condition:
                # The thread may have begun it: what that has posted comes before the next burst.
                is_kept = self._deadlines or self._is_closing or not self._undelivered.is_empty
                compute = None if is_kept else partial(self._compute, is_threaded=False)
                updates, is_more = self._loop_burst.begin(compute)
                self._deliver(updates)
            if is_more:
                self._submitted.soon(self._begin)
        except Exception:  # noqa: BLE001 (as in the thread)
            self._fail()

    def _deliver(self, updates: Sequence[Progress]) -> None:
        for progress in updates:
            listener: Any = progress.key
            listener.deliver(progress)
            if progress.is_last:
                self._drop(listener)
        if updates:
            self._undelivered.taken_soon()

    def _drop(self, listener: Listener | BeamListener) -> None:
        self._listeners.discard(listener)
        self._check_empty()

    def _check_empty(self) -> None:
        if self._is_draining and not (self._listeners or self._reservations):
            self._drained.set()

    def _end_streams(self, error: type[CarouselError], message: str) -> None:
        for listener in list(self._listeners):
            self.cancel(listener)
            listener.fail(error(message))


def _fault_of(
    request: GenerationRequest, *, vocabulary_size: int, steers: bool = False
) -> str | None:
    """Return what would fail every generation of the slot table, or be left out; or None."""
    if request.steer and not steers:
        return "the engine's program has no steering; the request belongs to another one"
    if not request.prompt:
        return "a generation begins after one token at least"
    given = (request.prompt, request.penalty_context, request.forced_tokens)
    largest = max(max(tokens, default=0) for tokens in given)
    if largest >= vocabulary_size:  # another model's token
        return (
            f"the model does not have token id {largest}: its vocabulary has "
            f"{vocabulary_size} tokens"
        )
    return None
