"""The thread that drives a scheduler and a program, and the streams that come out of it."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

from service.errors import CarouselError, Draining, GenerationFailed
from service.generation.beam_worker import BeamListener, BeamWorker
from service.generation.request import Chunk, GenerationRequest
from service.generation.sampling import Sampler
from service.generation.scheduler import Plan, Progress, Scheduler
from service.generation.table import SlotTable
from service.models.step import StepProgram
from service.models.tokenizer import Tokenizer

MAX_ROWS = 256
QUEUE_LIMIT = 1_024
TABLE_LIMIT = 4 * 1024 * 1024
"""Rows times vocabulary of a slot table at most."""

BACKLOG_LIMIT = 4_096
"""A stream that is this many tokens behind pauses until its reader has caught up by half."""

_log = logging.getLogger(__name__)


class Producer(Protocol):
    """Produces the chunks of a stream, and waits while its reader is behind."""

    def pause(self, stream: "Stream") -> None:
        """Produce no more chunks until `resume`."""
        ...

    def resume(self, stream: "Stream") -> None:
        """Produce chunks again."""
        ...


class Listener(Protocol):
    """Receives one generation's chunks in the event loop."""

    def deliver(self, progress: Progress) -> None:
        """Receive the result of a burst."""
        ...

    def fail(self, error: CarouselError) -> None:
        """End with an error. Does nothing after the end."""
        ...


class Stream:
    """The chunks of one generation, read once with `async for` in the engine's event loop.

    A reader that stops early calls `cancel`. Reading raises GenerationFailed if the row failed, and
    Draining if the server stopped first.
    """

    def __init__(self, producer: Producer, on_cancel: Callable[["Stream"], None]) -> None:
        """`on_cancel` is called when the reader cancels the stream before its end."""
        self._producer, self._on_cancel = producer, on_cancel
        self._chunks: deque[Chunk] = deque()
        self._backlog = 0
        self._is_paused = False
        self._end: CarouselError | None = None
        self._is_over = False
        self._reader: asyncio.Future[None] | None = None

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Chunk:
        while not self._chunks:
            if self._end is not None:
                end, self._end = self._end, None
                raise end
            if self._is_over:
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        chunk = self._chunks.popleft()
        self._backlog -= len(chunk.tokens)
        if self._is_paused and self._backlog < BACKLOG_LIMIT // 2:
            self._is_paused = False
            self._producer.resume(self)
        return chunk

    def cancel(self) -> None:
        """Stop the generation before its next burst. Does nothing if it has finished."""
        if not self._is_over:
            self._finish(None)
            self._on_cancel(self)

    def deliver(self, progress: Progress) -> None:
        """Event loop only: take what a burst made."""
        if self._is_over:
            return
        self._chunks.append(progress.chunk)
        self._backlog += len(progress.chunk.tokens)
        if progress.is_last:
            self._finish(None if progress.failure is None else GenerationFailed(progress.failure))
        elif self._backlog > BACKLOG_LIMIT and not self._is_paused:
            self._is_paused = True
            self._producer.pause(self)
        else:
            self._wake()

    def fail(self, error: CarouselError) -> None:
        """Event loop only: end the stream with an error."""
        if not self._is_over:
            self._finish(error)

    def _finish(self, error: CarouselError | None) -> None:
        self._is_over, self._end = True, error
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Reservation:
    """Places in an engine's queue for generations that are submitted later.

    A draining engine waits until it is freed; leaving its `with` block frees it.
    """

    def __init__(self, n: int, on_free: Callable[["Reservation"], None]) -> None:
        self.n, self._on_free = n, on_free

    def free(self) -> None:
        """Give the places back to the engine. Does nothing the second time."""
        self._on_free(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()


class Engine:
    """Turns requests into streams with one continuous batch.

    `submit`, `drain` and `close` belong to one event loop; the batch belongs to a thread.
    """

    def __init__(
        self,
        program: StepProgram,
        tokenizer: Tokenizer,
        *,
        name: str,
        threads: int = 1,
        max_rows: int = MAX_ROWS,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self._vocabulary_size = program.vocabulary_size
        rows = max(1, min(max_rows, TABLE_LIMIT // program.vocabulary_size))
        texts = [tokenizer.text_of(i) for i in range(len(tokenizer))]
        sampler = Sampler(program.vocabulary_size, rows, tokenizer.special_ids)
        self._table = SlotTable(program, sampler, rows, threads)
        self._table.warm_up()
        self._scheduler = Scheduler(texts, rows, queue_limit)
        self.beam_worker = BeamWorker(program, texts, tokenizer.special_ids, self._call, name)
        self.beam_worker.warm_up()
        self._listeners: set[Listener | BeamListener] = set()
        self._reservations: set[Reservation] = set()
        # By the monotonic clock; guarded as the scheduler is.
        self._deadlines: dict[Listener | BeamListener, float] = {}
        self._emptied = asyncio.Event()  # set where a draining engine has lost its last stream
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = threading.Condition()  # guards the scheduler between bursts
        self._is_closing = False
        self._is_draining = False
        self._is_cut = False  # whether the drain's deadline is over
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)

    @property
    def running(self) -> int:
        """How many generations are in the slot table, and how many beam searches take turns."""
        return self._scheduler.rows + self.beam_worker.running

    @property
    def waiting(self) -> int:
        """How many wait for a slot or a turn."""
        return self._scheduler.waiting + self.beam_worker.waiting

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._listeners)

    def start(self) -> None:
        """Begin to work for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self.beam_worker.start()

    def submit(self, request: GenerationRequest) -> Stream:
        """Start a generation. Raises as `check_capacity`."""
        self.check_capacity()
        return self.open_stream(request)

    def check_capacity(self, n: int = 1) -> None:
        """Check that `n` generations can be submitted now.

        Raises:
            Overloaded: the queue is full.
            Draining: the engine accepts no more work.
            GenerationFailed: the engine has failed.

        """
        if self.failure is not None:
            raise GenerationFailed(self.failure)
        if self._is_draining or self._is_closing:
            raise Draining("the server is stopping and takes no new generations; try another one")
        reserved = sum(reservation.n for reservation in self._reservations)
        self._scheduler.check_capacity(n, reserved)

    def reserve(self, n: int) -> Reservation:
        """Reserve places for `n` generations that are submitted later. Raises as `check_capacity`.

        With `n` 0 the reservation only makes a drain wait for it.
        """
        self.check_capacity(n)
        reservation = Reservation(n, self._free)
        self._reservations.add(reservation)
        return reservation

    def open_stream(self, request: GenerationRequest) -> Stream:
        """Start a generation that was admitted before, and return its chunks."""
        stream = Stream(self, self.cancel)
        self.submit_admitted(request, stream)
        return stream

    def submit_admitted(self, request: GenerationRequest, listener: Listener) -> None:
        """Start a generation that was admitted before: it is queued even if the queue is full."""
        given = (request.prompt, request.penalty_context, request.forced_tokens)
        if max(max(tokens, default=0) for tokens in given) >= self._vocabulary_size:
            # Another model's token: in the slot table it would fail every generation.
            listener.fail(GenerationFailed("the text holds a token that the model does not have"))
            return
        self._listeners.add(listener)
        with self._changed:
            self._scheduler.submit(listener, request)
            if request.deadline_s is not None:
                left_s = request.deadline_s - time.time()
                self._deadlines[listener] = time.monotonic() + left_s
            self._changed.notify()
        if self._is_cut or self._is_closing or self.failure is not None:  # since it was admitted
            self.cancel(listener)
            listener.fail(Draining("the model was closed before the generation began"))

    def admit_beam_search(self, listener: BeamListener) -> None:
        """Admit a beam search, which `beam_worker` runs once its prompt is processed.

        Raises as `check_capacity`, and Overloaded if there are too many beam searches.
        """
        self.check_capacity()
        self.beam_worker.admit(listener)
        self._listeners.add(listener)

    def end_beam_search(self, listener: BeamListener) -> None:
        """Remove a beam search that has finished or is cancelled."""
        self.beam_worker.remove(listener)
        self._drop(listener)

    def cancel(self, listener: Listener | BeamListener) -> None:
        """Remove a generation from the batch before the next burst."""
        self._drop(listener)
        with self._changed:
            self._deadlines.pop(listener, None)
            self._scheduler.cancel(listener)
            self._changed.notify()

    def pause(self, listener: Listener) -> None:
        """Let a generation wait for its reader."""
        with self._changed:
            self._scheduler.pause(listener)

    def resume(self, listener: Listener) -> None:
        """Let a paused generation go on."""
        with self._changed:
            self._scheduler.resume(listener)
            self._changed.notify()

    async def drain(self, deadline_s: float) -> None:
        """Take no new work; wait for the running streams, and cut them off at the deadline."""
        self._is_draining = True
        if self._listeners or self._reservations:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), deadline_s)
        self._is_cut = True
        for listener in list(self._listeners):
            self.cancel(listener)
            listener.fail(Draining("the server stopped before the generation was complete"))

    def close(self) -> None:
        """End the thread. Streams that are still open fail."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        self.beam_worker.close()
        self._table.close()
        for listener in list(self._listeners):
            self.cancel(listener)
            listener.fail(Draining("the model was closed before the generation was complete"))

    # -- the engine's thread

    def _run(self) -> None:
        try:
            while (plan := self._next_plan()) is not None:
                draws, kept = self._table.run(plan)
                with self._changed:
                    news = self._scheduler.apply(plan, draws, kept)
                    self._forget_deadlines(news)
                if news:
                    self._call(self._deliver, news)
        except Exception:  # noqa: BLE001 (whatever it was, every reader has to hear of it)
            _log.exception("the engine has failed")
            self.failure = "the model's engine has failed; the server has to be restarted"
            self._call(self._fail_all)

    def _next_plan(self) -> Plan | None:
        """Wait for work; None when the engine is closing."""
        with self._changed:
            while not self._is_closing:
                patience_s = self._finish_late() if self._deadlines else None
                plan = self._scheduler.plan()
                if plan is not None:
                    return plan
                self._changed.wait(patience_s)
        return None

    def _finish_late(self) -> float | None:
        """End what is out of time; return how long the next one still has."""
        now = time.monotonic()
        late = [listener for listener, until in self._deadlines.items() if until <= now]
        found = [self._scheduler.finish(listener) for listener in late]
        for listener in late:
            del self._deadlines[listener]
        news = [progress for progress in found if progress is not None]
        if news:
            self._call(self._deliver, news)
        return min(self._deadlines.values()) - now if self._deadlines else None

    def _forget_deadlines(self, news: Sequence[Progress]) -> None:
        """Of generations that are over."""
        if self._deadlines:
            for progress in news:
                if progress.is_last:
                    listener: Any = progress.key
                    self._deadlines.pop(listener, None)

    def _call(self, callback, *args) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed: nobody is left to hear it
            _log.debug("the event loop was closed before the engine")

    # -- the event loop

    def _deliver(self, news: Sequence[Progress]) -> None:
        for progress in news:
            listener: Any = progress.key
            listener.deliver(progress)
            if progress.is_last:
                self._drop(listener)

    def _drop(self, listener: Listener | BeamListener) -> None:
        self._listeners.discard(listener)
        self._check_empty()

    def _check_empty(self) -> None:
        if self._is_draining and not (self._listeners or self._reservations):
            self._emptied.set()

    def _free(self, reservation: Reservation) -> None:
        self._reservations.discard(reservation)
        self._check_empty()

    def _fail_all(self) -> None:
        assert self.failure is not None
        for listener in list(self._listeners):
            listener.fail(GenerationFailed(self.failure))
        self._listeners.clear()
