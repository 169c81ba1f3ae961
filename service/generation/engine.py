"""The thread that drives a scheduler and a program, and the streams that come out of it."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

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


class Source(Protocol):
    """What a stream's chunks come from."""

    def pause(self, stream: "Stream") -> None:
        """Make no more for now: the reader is far behind."""
        ...

    def resume(self, stream: "Stream") -> None:
        """Go on."""
        ...

    def forget(self, stream: "Stream") -> None:
        """The reader has left."""
        ...


class Listener(Protocol):
    """What an engine tells its news, in the event loop."""

    def deliver(self, progress: Progress) -> None:
        """Take what a burst made."""
        ...

    def fail(self, error: CarouselError) -> None:
        """Hear that there is no more to come."""
        ...


class Stream:
    """The chunks of one generation, to be read by `async for` in the engine's event loop.

    Leaving early is `cancel`. Reading raises Generation where the row failed and Draining where
    the server stopped first.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
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
            self._source.resume(self)
        return chunk

    def cancel(self) -> None:
        """Stop the generation before its next step. Harmless when it is over."""
        if not self._is_over:
            self._finish(None)
            self._source.forget(self)

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
            self._source.pause(self)
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
        self.searches = BeamWorker(program, texts, tokenizer.special_ids, self._call, name)
        self.searches.warm_up()
        self._listeners: set[Listener | BeamListener] = set()
        self._held: dict[object, int] = {}  # works of several streams, and how many are to come
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
        return self._scheduler.rows + self.searches.running

    @property
    def waiting(self) -> int:
        """How many wait for a slot or a turn."""
        return self._scheduler.waiting + self.searches.waiting

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._listeners)

    def start(self) -> None:
        """Begin to work for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self.searches.start()

    def submit(self, request: GenerationRequest) -> Stream:
        """Begin a generation. Raises as `check_room`."""
        self.check_room()
        stream = Stream(self)
        self.enter(request, stream)
        return stream

    def check_room(self, n: int = 1) -> None:
        """See whether so many generations may begin now.

        Raises:
            Overloaded: the line is full.
            Draining: the engine takes no more work.
            Generation: the engine has failed.

        """
        if self.failure is not None:
            raise GenerationFailed(self.failure)
        if self._is_draining or self._is_closing:
            raise Draining("the server is stopping and takes no new generations; try another one")
        self._scheduler.check_room(n + sum(self._held.values()))

    def enter(self, request: GenerationRequest, listener: Listener) -> None:
        """Begin a generation that is admitted already: it waits even in a line that is full."""
        given = (request.prompt, request.penalty_context, request.forced_tokens)
        if max(max(tokens, default=0) for tokens in given) >= self._vocabulary_size:
            # Another model's, by whatever mistake: in the table it would end everybody's.
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
            self.forget(listener)
            listener.fail(Draining("the model was closed before the generation began"))

    def hold(self, whom: object, n: int = 0) -> None:
        """Count a work as under way until it is let go: a drain waits for it between its streams.

        `n` are the streams that it has still to enter, for which there has to be room.
        """
        self._held[whom] = n

    def release(self, whom: object) -> None:
        """Let a work go, whose last stream has been entered. Harmless when it is not held."""
        self._held.pop(whom, None)
        self._look_empty()

    def open_search(self, reader: BeamListener) -> None:
        """Admit a beam search. Raises as `check_room`; Overloaded where there are too many."""
        self.check_room()
        self.searches.admit(reader)
        self._listeners.add(reader)

    def close_search(self, reader: BeamListener) -> None:
        """A beam search is over, or nobody reads it any more."""
        self.searches.leave(reader)
        self._drop(reader)

    def forget(self, listener: Listener | BeamListener) -> None:
        """Take a generation out of the batch before the next burst."""
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
        if self._listeners or self._held:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), deadline_s)
        self._is_cut = True
        for listener in list(self._listeners):
            self.forget(listener)
            listener.fail(Draining("the server stopped before the generation was complete"))

    def close(self) -> None:
        """End the thread. Streams that are still open fail."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        self.searches.close()
        self._table.close()
        for listener in list(self._listeners):
            self.forget(listener)
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
        self._look_empty()

    def _look_empty(self) -> None:
        if self._is_draining and not (self._listeners or self._held):
            self._emptied.set()

    def _fail_all(self) -> None:
        assert self.failure is not None
        for listener in list(self._listeners):
            listener.fail(GenerationFailed(self.failure))
        self._listeners.clear()
