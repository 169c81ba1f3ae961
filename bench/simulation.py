"""A discrete-event simulation of processes that serve streams: pure, in simulated seconds.

Each process has two threads, of the engine and of the event loop; the clients are one more.
Threads share the cores evenly. The engine's thread takes burst after burst, the event loop sends
what a burst has made, and a client asks again when its reply is whole. With sessions, what a burst
has made is sent after the store has it: one commit is in flight, and what comes meanwhile waits.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

MAX_STEPS, MAX_ROW_STEPS = 32, 1_024  # of a burst, as generation/config.py has them
_NOTHING_S = 1e-12


@dataclass(frozen=True, slots=True)
class Cost:
    """The processor time of one character, where `rows` streams run in one process."""

    rows: int
    engine_us: float
    loop_us: float
    client_us: float


@dataclass(frozen=True, slots=True)
class Case:
    """What is simulated. Without arrivals each stream asks again when it is whole."""

    processes: int
    streams: int  # clients, or the most that run at once
    cores: int = 2
    characters: int = 256  # of a reply
    prompt: int = 6  # tokens
    store_s: float = 0.0  # a round trip; 0: no sessions
    store_capacity_s: float = 0.0  # what the store computes for a commit of one turn
    arrivals_per_s: float = 0.0  # of all processes, as a Poisson process; 0: a closed loop


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulation has found."""

    characters_per_s: float
    first_event_p50_s: float
    first_event_p99_s: float
    core_share: float  # of the cores' time that was used
    store_share: float  # of the time in which the store has computed


@dataclass(slots=True, eq=False)
class _Stream:
    process: "_Process"
    asked_s: float
    left: int
    prompt: int
    generated: int = 0
    sent: int = 0


class _Cores:
    """Work on cores that all running threads share evenly, and timers."""

    def __init__(self, cores: int) -> None:
        self.now_s, self.used_s = 0.0, 0.0
        self._cores = cores
        self._work: dict[_Thread, float] = {}  # processor time left
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, delay_s: float, then: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self.now_s + delay_s, next(self._order), then))

    def work(self, thread: "_Thread", seconds: float) -> None:
        self._work[thread] = seconds

    def run(self, until_s: float) -> None:
        while self.now_s < until_s:
            rate = min(1.0, self._cores / len(self._work)) if self._work else 1.0
            soonest_s = min(self._work.values(), default=math.inf) / rate
            timer_s = self._timers[0][0] - self.now_s if self._timers else math.inf
            step_s = min(soonest_s, timer_s)
            if math.isinf(step_s):
                return
            self.now_s += step_s
            self.used_s += step_s * rate * len(self._work)
            done = []
            for thread in self._work:
                self._work[thread] -= step_s * rate
                if self._work[thread] <= _NOTHING_S:
                    done.append(thread)
            for thread in done:
                del self._work[thread]
            for thread in done:
                thread.done()
            while self._timers and self._timers[0][0] <= self.now_s + _NOTHING_S:
                heapq.heappop(self._timers)[2]()


class _Thread:
    """A queue of work, one piece after the other."""

    def __init__(self, cores: _Cores) -> None:
        self._cores = cores
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()
        self._then: Callable[[], None] | None = None

    def run(self, seconds: float, then: Callable[[], None]) -> None:
        self._queue.append((max(seconds, _NOTHING_S), then))
        if self._then is None:
            self._begin()

    def done(self) -> None:
        then, self._then = self._then, None
        assert then is not None
        then()
        if self._then is None and self._queue:
            self._begin()

    def _begin(self) -> None:
        seconds, self._then = self._queue.popleft()
        self._cores.work(self, seconds)


@dataclass(slots=True)
class _Tally:
    characters: int = 0
    first_events_s: list[float] = field(default_factory=list)


class _Process:
    """One process that serves: its engine's thread and its event loop."""

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation
        self.engine, self.loop = _Thread(simulation.cores), _Thread(simulation.cores)
        self.waiting: deque[_Stream] = deque()
        self._rows: list[_Stream] = []
        self._is_working = self._is_committing = False
        self._uncommitted: list[tuple[_Stream, int]] = []

    def submit(self, stream: _Stream) -> None:
        self.waiting.append(stream)
        if not self._is_working:
            self._plan()

    def _plan(self) -> None:
        self._rows += self.waiting
        self.waiting.clear()
        self._is_working = bool(self._rows)
        if not self._rows:
            return
        n, steps = len(self._rows), burst(self._rows)
        work_s = 1e-6 * steps * n * self._simulation.cost(n, "engine_us")
        self.engine.run(work_s, lambda: self._apply(steps))

    def _apply(self, steps: int) -> None:
        made = []
        for stream in self._rows:
            fed = min(stream.prompt, steps)
            stream.prompt -= fed
            n = min(steps - fed, stream.left)
            if n:
                stream.left -= n
                stream.generated += n
                made.append((stream, n))
        self._rows = [stream for stream in self._rows if stream.left]
        if self._simulation.case.store_s:
            self._uncommitted += made
            self._commit()
        else:
            self.deliver(made)
        self._plan()

    def _commit(self) -> None:
        if self._is_committing or not self._uncommitted:
            return
        self._is_committing, made = True, self._uncommitted
        self._uncommitted = []

        def committed() -> None:
            self._is_committing = False
            self.deliver(made)
            self._commit()

        self._simulation.committed(len({id(stream) for stream, _ in made}), committed)

    def deliver(self, made: Sequence[tuple[_Stream, int]]) -> None:
        if not made:
            return
        n_characters = sum(n for _, n in made)
        work_s = 1e-6 * n_characters * self._simulation.cost(len(made), "loop_us")
        self.loop.run(work_s, lambda: self._simulation.received(made))


class Simulation:
    """Simulates one case with the costs that were measured. It has its own random numbers."""

    def __init__(self, costs: Sequence[Cost], case: Case, seed: int = 1) -> None:
        """`costs` are of one process with different numbers of streams, in any order."""
        self.case, self.cores = case, _Cores(case.cores)
        self._costs = sorted(costs, key=lambda cost: cost.rows)
        self._random = random.Random(seed)
        self._client = _Thread(self.cores)
        self._processes = [_Process(self) for _ in range(case.processes)]
        self._tally, self._n_running, self._n_asked = _Tally(), 0, count()
        self._store_free_s = self._store_used_s = 0.0

    def run(self, measure_s: float, warm_up_s: float = 1.0) -> Outcome:
        """Simulate, and return what has been found after the warm-up."""
        if self.case.arrivals_per_s:
            self._arrive()
        else:
            for _ in range(self.case.streams):
                self._ask(next(self._n_asked) % self.case.processes)
        self.cores.run(warm_up_s)
        self._tally = _Tally()
        used_s, store_s = self.cores.used_s, self._store_used_s
        self.cores.run(warm_up_s + measure_s)
        firsts = sorted(self._tally.first_events_s) or [math.inf]
        return Outcome(
            self._tally.characters / measure_s,
            firsts[len(firsts) // 2],
            firsts[min(len(firsts) - 1, int(0.99 * len(firsts)))],
            (self.cores.used_s - used_s) / measure_s / self.case.cores,
            (self._store_used_s - store_s) / measure_s,
        )

    def cost(self, rows: int, name: str) -> float:
        """Return a cost for a number of rows, between the measured ones.

        It is linear in 1 / rows: a burst has a part that it costs once, and one for each row.
        """
        before, after = self._costs[0], self._costs[-1]
        for cost in self._costs:
            if cost.rows <= rows:
                before = cost
            elif cost.rows < after.rows or after.rows <= rows:
                after = cost
        low, high = getattr(before, name), getattr(after, name)
        if before.rows >= after.rows or rows <= before.rows:
            return float(low)
        if rows >= after.rows:
            return float(high)
        share = (1 / before.rows - 1 / rows) / (1 / before.rows - 1 / after.rows)
        return float(low + share * (high - low))

    def committed(self, turns: int, then: Callable[[], None]) -> None:
        """Call `then` when the store has a commit: it computes one after the other."""
        work_s = turns * self.case.store_capacity_s
        arrived_s = self.cores.now_s + self.case.store_s / 2
        begun_s = max(arrived_s, self._store_free_s)
        self._store_free_s = begun_s + work_s
        self._store_used_s += work_s
        self.cores.after(self._store_free_s + self.case.store_s / 2 - self.cores.now_s, then)

    def received(self, made: Sequence[tuple[_Stream, int]]) -> None:
        """Let the clients read what a process has sent."""
        n_characters = sum(n for _, n in made)
        work_s = 1e-6 * n_characters * self.cost(self._n_running, "client_us")
        self._client.run(work_s, lambda: self._read(made))

    def _read(self, made: Sequence[tuple[_Stream, int]]) -> None:
        for stream, n in made:
            self._tally.characters += n
            if not stream.sent:
                self._tally.first_events_s.append(self.cores.now_s - stream.asked_s)
            stream.sent += n
            if stream.sent == self.case.characters:
                self._n_running -= 1
                if not self.case.arrivals_per_s:
                    self._ask(self._processes.index(stream.process))

    def _ask(self, process: int) -> None:
        self._n_running += 1
        one = self._processes[process]
        stream = _Stream(one, self.cores.now_s, self.case.characters, self.case.prompt)
        one.submit(stream)

    def _arrive(self) -> None:
        if self._n_running < self.case.streams:
            self._ask(self._random.randrange(self.case.processes))
        wait_s = self._random.expovariate(self.case.arrivals_per_s)
        self.cores.after(wait_s, self._arrive)


def burst(rows: Sequence[_Stream]) -> int:
    """Return the steps of a burst, as `Scheduler._burst` chooses them for streams."""
    most = max(1, min(MAX_STEPS, MAX_ROW_STEPS // len(rows)))
    least = min(most, len(rows))
    to_first = min(row.generated or row.prompt + 1 for row in rows)
    return min(max(least, min(most, to_first)), max(row.left + row.prompt for row in rows))
