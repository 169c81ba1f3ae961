"""Processes, clients and a store that can be made to fail at any step, without threads or clocks.

The store is a real Valkey, and all of `service.sessions` is as it is served; the engine works only
when told. After every deed the promises are checked against what the clients hold and against the
same text made undisturbed.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from service.constraints.compiler import ConstraintCompiler
from service.constraints.spec import regex
from service.errors import CarouselError
from service.generation.request import GenerationRequest, SamplingParams
from service.models.bundle import Precision
from service.models.compile import compile_program
from service.models.layer import LayerSpec
from service.models.spec import ModelSpec, Weights
from service.models.tokenizer import Tokenizer
from service.sessions.codec import pack_state, unpack_tokens
from service.sessions.group_commit import GroupCommit
from service.sessions.model import SessionModel
from service.sessions.redis_client import ScriptClient, read_scripts
from service.sessions.redis_connection import RedisConnection
from service.sessions.replay import Replay
from service.sessions.running_turn import RunningTurn
from service.sessions.session import EventId, OnDisconnect, Session, SessionKey, TurnStatus
from service.sessions.sessions import Sessions, TurnRequest, retry_of
from service.sessions.signing import Signer
from service.sessions.store import CommitEntry, Store, StoredTurn
from service.sessions.turn_record import TurnRecord
from tests.generation.invariance import Stage
from tests.sessions.hand_engine import HandEngine
from tests.sessions.valkey import OwnValkey

TOKENS = "abcdefg"
SPEC = ModelSpec(len(TOKENS), None, (LayerSpec("lstm", 8),))
DIGEST = "ab" * 32
CONSTRAINTS = ConstraintCompiler(TOKENS)
FAULTS = ("request lost", "reply lost")
APPEND_LIMIT_S, IDLE_LIMIT_S = 10.0, 0.03
"""A replay may wait for a process that does nothing; an append waits for the store alone."""


def make_program(drift: int = 0) -> Any:
    """The same network for everybody, or, with a drift, nearly the same: as another machine's."""
    random, noise = np.random.default_rng(1), np.random.default_rng(drift)
    arrays = {
        name: random.normal(0.0, 1.5, shape).astype(np.float32)
        for name, shape in SPEC.weight_shapes.items()
    }
    if drift:
        for name, array in arrays.items():
            arrays[name] = array + noise.normal(0.0, 0.1, array.shape).astype(np.float32)
    return compile_program(SPEC, Weights(SPEC, arrays), Precision.FLOAT32, 1)


class FaultyLink(ScriptClient):
    """A link that loses the next requests or replies, as it is told."""

    def __init__(self, url: str, scripts: dict[str, str], faults: list[str]) -> None:
        super().__init__(url, scripts)
        self._faults = faults

    async def _opened(self) -> Any:
        return FaultyWire(await super()._opened(), self._faults)


class WatchedStore(Store):
    """Notes what must not happen: that the writer of a log finds other tokens than its own."""

    conflicts = 0

    async def commit(self, stamp: str, entries: Sequence[CommitEntry]) -> list[tuple[str, int]]:
        outcomes = await super().commit(stamp, entries)
        self.conflicts += sum(outcome == "CONFLICT" for outcome, _ in outcomes)
        return outcomes


class FaultyWire:
    def __init__(self, wire: RedisConnection, faults: list[str]) -> None:
        self._wire, self._faults = wire, faults

    async def call(self, *command: Any) -> Any:
        fault = self._faults.pop(0) if self._faults and command[0] == "EVALSHA" else ""
        if fault == "request lost":
            raise ConnectionError(fault)
        reply = await self._wire.call(*command)
        if fault == "reply lost":
            raise ConnectionError(fault)
        return reply

    def close(self) -> None:
        self._wire.close()


@dataclass
class Client:
    """Whoever asked for a turn: what it has been sent, by event id."""

    key: SessionKey
    ask: TurnRequest
    turn: RunningTurn | None = None
    number: tuple[int, int] | None = None  # epoch and turn, once known
    first: int = 0
    seen: list[tuple[int, float]] = field(default_factory=list)
    is_over: bool = False


class Process:
    """One API process."""

    def __init__(self, world: "World", number: int) -> None:
        self.name = f"process{number}"
        self.faults: list[str] = []
        links = [FaultyLink(world.valkey.url, world.scripts, self.faults) for _ in range(2)]
        self.store = WatchedStore(links[0], links[1], world.identity, self.name)
        self.ledger = world.ledger_class(self.store)
        self.sessions = Sessions(self.store, self.ledger, world.identity)
        self.engine = HandEngine(world.programs[number % len(world.programs)], world.tokenizer)
        self.voice = SessionModel(
            "tiny@1", DIGEST, SPEC.state_units, world.tokenizer, self.engine, CONSTRAINTS
        )
        self.is_zombie = False

    async def begin(self, key: SessionKey, ask: TurnRequest) -> RunningTurn | Replay:
        async def begin(session: Session) -> RunningTurn | Replay:
            return await self.sessions.begin(session, self.voice, ask)

        return await self.sessions.using(key, begin)

    async def beat(self) -> None:
        await self.sessions.beat()
        await self.store.beat(10**7)


class World:
    def __init__(
        self,
        valkey: OwnValkey,
        programs: Sequence[Any],
        scripts: dict[str, str] | None = None,
        ledger_class: type[GroupCommit] = GroupCommit,
    ) -> None:
        self.valkey, self.programs = valkey, programs  # one, or processes that differ a little
        self.scripts = scripts or read_scripts()
        self.ledger_class = ledger_class
        self.tokenizer = Tokenizer(TOKENS)
        self.identity = Signer(b"x" * 32)
        self.loop = asyncio.new_event_loop()
        valkey.client.flushall()
        self.n_processes = 0
        self.ever: list[Process] = []
        self.processes = [self._new_process() for _ in range(2)]
        self.clients: list[Client] = []
        self.asked: list[tuple[int, TurnRequest]] = []  # with a key: these may come again
        self.keys: list[SessionKey] = []
        self.by_id: dict[tuple[SessionKey, str], tuple[int, float]] = {}
        self.turns_by_key: dict[tuple[SessionKey, str], tuple[int, int]] = {}
        self.logs: dict[SessionKey, tuple[int, list[int]]] = {}  # cuts so far, and the log
        self.cuts: dict[SessionKey, int] = {}
        self.refusals: list[CarouselError] = []

    def close(self) -> None:
        async def close() -> None:
            for process in self.ever:
                for link in (process.store._link, process.store._commits):
                    await link.close()
            await asyncio.sleep(0.001)  # transports close in the loop's next rounds

        self.do(close())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def _new_process(self) -> Process:
        self.n_processes += 1

        async def make() -> Process:
            process = Process(self, self.n_processes)
            self.ever.append(process)
            await process.beat()
            return process

        return self.loop.run_until_complete(make())

    # -- deeds

    def create(self, text: Sequence[int], seed: int) -> None:
        process = self.processes[0]
        session = self.do(process.sessions.create("", process.voice, None, seed=seed))
        self.keys.append(session.key)
        self.cuts[session.key] = 0
        if text:
            self.append(0, len(self.keys) - 1, text)

    def append(self, p: int, s: int, text: Sequence[int]) -> None:
        process = self.processes[p]

        async def append() -> None:
            async def feed(session: Session) -> None:
                appending = process.sessions.append(session, process.voice, text)
                await self._driven(process, appending, APPEND_LIMIT_S)

            await process.sessions.using(self.keys[s], feed)

        self._tried(append())

    def begin(self, p: int, s: int, ask: TurnRequest) -> None:
        process = self.processes[p]
        client = Client(self.keys[s], ask)
        if ask.retry is not None:
            self.asked.append((s, ask))

        async def begin() -> None:
            begun = await process.begin(client.key, ask)
            if isinstance(begun, Replay):
                client.number = (begun.turn.epoch, begun.turn.number)
                client.first = begun.turn.first
                self._note_key(client)
                self.clients.append(client)
                await self._driven(process, self._read_replay(client, begun), IDLE_LIMIT_S)
            else:
                turn = begun.session.turn
                client.turn, client.first = begun, turn.first
                client.number = (turn.epoch, turn.number)
                self._note_key(client)
                self.clients.append(client)

        self._tried(begin())

    def _note_key(self, client: Client) -> None:
        if client.ask.retry is not None:
            known = self.turns_by_key.setdefault((client.key, client.ask.retry.key), client.number)
            assert known == client.number, "one key, two turns"

    def again(self, p: int, a: int) -> None:
        """A client that knows nothing of its answer asks once more, with the same key."""
        if self.asked:
            self.begin(p, *self.asked[a % len(self.asked)])

    def busy(self, i: int) -> int:
        """One of the processes that have a turn, if any has."""
        busy = [p for p, process in enumerate(self.processes) if process.sessions._live]
        return busy[i % len(busy)] if busy else i % len(self.processes)

    def work(self, p: int) -> None:
        self.processes[p].engine.work()

    def time_up(self, p: int) -> None:
        """It is later than the deadline of every turn that has one."""
        process = self.processes[p]
        for key, live in list(process.sessions._live.items()):
            order = self._found(key).request
            if order and TurnRecord.from_json(order).asked.deadline_s is not None:
                process.engine.finish(live)

    def flush(self, p: int, faults: Sequence[str] = ()) -> None:
        process = self.processes[p]
        process.faults[:] = faults
        self.do(process.ledger.flush())
        process.faults.clear()
        assert not process.store.conflicts, "two writers"
        self.read()

    def stumble(self, p: int, faults: Sequence[str]) -> None:
        """A commit that has something to lose, and loses it or its reply."""
        self.work(p)
        self.flush(p, faults)

    def read(self) -> None:
        """Every client takes what has been sent to it."""
        for client in self.clients:
            while client.turn is not None and client.turn.stream._chunks:
                chunk = self.do(anext(client.turn.stream))
                self._take(client, chunk)

    def leave(self, c: int) -> None:
        if self.clients:
            client = self.clients[c % len(self.clients)]
            if client.turn is not None:
                client.turn.stream.cancel()
                client.turn = None

    def crash(self, p: int) -> None:
        """A process dies; its lease ends; a new one takes its place."""
        self._expire(self.processes[p])
        for client in self.clients:
            if client.turn is not None and client.turn._engine is self.processes[p].engine:
                client.turn = None
        self.processes[p] = self._new_process()

    def sleep(self, p: int) -> None:
        """A process stands still until its lease has ended, and then goes on.

        Its clients turn elsewhere; what it sends to their old connections is read all the same.
        """
        self._expire(self.processes[p])
        for client in list(self.clients):
            if client.turn is not None and client.turn._engine is self.processes[p].engine:
                self.clients.append(replace(client, turn=None, seen=list(client.seen)))

    def _expire(self, process: Process) -> None:
        self.valkey.client.delete(f"carousel:process:{process.name}")

    def beat(self, p: int) -> None:
        self._tried(self.processes[p].beat())

    def follow(self, p: int, c: int) -> None:
        """A client that has lost its stream asks for the rest."""
        if not self.clients:
            return
        process, client = self.processes[p], self.clients[c % len(self.clients)]
        if client.turn is not None or client.number is None or client.is_over:
            return

        async def follow() -> None:
            after = EventId(*client.number, client.first + len(client.seen))
            replay = await process.sessions.follow(client.key, process.voice, after)
            if replay is None:
                client.is_over = True
            else:
                await self._driven(process, self._read_replay(client, replay), IDLE_LIMIT_S)

        self._tried(follow())

    def usurp(self, p: int) -> None:
        """A process stands still before a commit; another one takes its turns over, and draws."""
        self.work(p)
        self.sleep(p)
        other = self.processes[1 - p]
        for key in list(self.processes[p].sessions._live):
            self._tried(other.sessions._resume(key, other.voice))
        self.work(1 - p)

    async def _read_replay(self, client: Client, replay: Replay) -> None:
        try:
            async for chunk in replay:
                self._take(client, chunk)
        finally:
            replay.cancel()
        client.is_over = True

    async def _driven(self, process: Process, work: Any, patience_s: float) -> None:
        """Do some work while its process works, and give up where nothing moves for so long."""
        task = asyncio.ensure_future(work)
        until = self.loop.time() + patience_s
        while not task.done() and self.loop.time() < until:
            if process.engine.work():
                until = self.loop.time() + patience_s
            await process.ledger.flush()
            await asyncio.sleep(0)
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def fork(self, p: int, s: int, at: int | None, seeds: str) -> None:
        process, key = self.processes[p], self.keys[s]

        async def fork() -> None:
            before = (await process.store.read(key)).session
            log = self._log_now(key)
            there = before.position if at is None else at
            (child,) = await process.sessions.fork(key, 1, there, seeds)
            self.keys.append(child.key)
            self.cuts[child.key] = 0
            assert self._log_now(child.key) == log[:there]
            assert child.turn.number == 0
            assert (child.seed == before.seed) == (seeds == "same")

        self._tried(fork())

    def rewind(self, p: int, s: int, to: int) -> None:
        process, key = self.processes[p], self.keys[s]

        async def rewind() -> None:
            log = self._log_now(key)
            session = await process.sessions.rewind(key, to)
            self.cuts[key] += 1
            assert session.position == to
            self.logs[key] = (self.cuts[key], log[:to])

        self._tried(rewind())

    def cancel(self, p: int, s: int) -> None:
        process, key = self.processes[p], self.keys[s]
        before = len(self._log_now(key))

        async def cancel() -> None:
            await self._driven(process, process.sessions.cancel(key), APPEND_LIMIT_S)
            assert (await process.store.read(key)).session.active != "turn"
            assert len(self._log_now(key)) >= before, "cancelled at less than what was committed"

        self._tried(cancel())

    def restart_store(self) -> None:
        self.valkey.restart()
        for process in self.processes:
            self._tried(process.beat())

    def _tried(self, work: Any) -> None:
        try:
            self.do(work)
        except CarouselError as error:
            self.refusals.append(error)

    # -- promises

    def _take(self, client: Client, chunk: Any) -> None:
        """P1 and P2: what is sent is in the log, and an id means one token for ever."""
        log = self._log_now(client.key)
        session = self._found(client.key).session
        is_same = (session.turn.epoch, session.turn.number) == client.number
        for token, logprob in zip(chunk.tokens, chunk.logprobs, strict=True):
            client.seen.append((token, logprob))
            position = client.first + len(client.seen)
            event = str(EventId(*client.number, position))
            sent = (token, logprob if len(self.programs) == 1 else 0.0)
            known = self.by_id.setdefault((client.key, event), sent)
            assert known == sent, "an id means two tokens"
            if is_same and session.turn.status not in {TurnStatus.REWOUND, TurnStatus.LOST}:
                assert log[position - 1 : position] == [token], "sent and not in the log"

    def _found(self, key: SessionKey) -> StoredTurn:
        fields = self.valkey.client.hgetall(f"carousel:session:{key}")
        request = self.valkey.client.get(f"carousel:request:{key}") or b""
        pairs = [part for pair in {**fields, b"left_ms": b"1"}.items() for part in pair]
        from service.sessions.store import _session  # noqa: PLC0415

        return StoredTurn(_session(key, pairs), request.decode(), is_held=False, tokens=b"")

    def _log_now(self, key: SessionKey) -> list[int]:
        """The log, read without any of our scripts."""
        record = {
            name.decode(): value.decode()
            for name, value in self.valkey.client.hgetall(f"carousel:session:{key}").items()
        }
        parts = [part.split(":") for part in record["chain"].split(",") if part]
        parts.append([record["tail"], record["position"], ""])
        log, first = b"", 0
        for segment, last, _ in parts:
            content = self.valkey.client.get(f"carousel:log:{segment}") or b""
            log += content[: int(last) - first]
            first = int(last)
        whole = self.valkey.client.get(f"carousel:log:{record['tail']}") or b""
        assert len(whole) == int(record["position"]) - int(record["base"]), "position and log"
        assert len(log) == int(record["position"]), "the log is not whole"
        return unpack_tokens(log, 1)

    def check(self) -> None:
        for key in self.keys:
            log = self._log_now(key)
            cuts, before = self.logs.get(key, (0, []))
            assert cuts != self.cuts[key] or log[: len(before)] == before, "the log has changed"
            self.logs[key] = (self.cuts[key], log)
            if len(self.programs) == 1:
                self._check_turn(key, log)
                self._check_snapshot(key, log)

    def _check_turn(self, key: SessionKey, log: list[int]) -> None:
        """P3: what the last turn has said is what it says undisturbed."""
        found = self._found(key)
        turn = found.session.turn
        if (
            turn.status in {TurnStatus.NONE, TurnStatus.REWOUND, TurnStatus.LOST}
            or not found.request
        ):
            return
        order = TurnRecord.from_json(found.request)
        said = log[turn.first : turn.finish]
        alone = Stage(self.programs[0], TOKENS)
        constraint = CONSTRAINTS.compile(order.constraint) if order.constraint else None
        alone.submit(order.request(tuple(log[: turn.first]), constraint))
        alone.work_to_the_end()
        drawn = alone.seen[0].drawn
        assert said == drawn[: len(said)], "not what the turn says undisturbed"
        is_late = order.asked.deadline_s is not None and turn.status is TurnStatus.LENGTH
        if (
            turn.status in {TurnStatus.EOS_TOKEN, TurnStatus.LENGTH, TurnStatus.STOP_SEQUENCE}
            and not is_late
        ):
            assert len(said) == len(drawn), "ended before its end"
            assert turn.status.value == alone.seen[0].finish.reason.value

    def _check_snapshot(self, key: SessionKey, log: list[int]) -> None:
        name = self.valkey.client.hget(f"carousel:session:{key}", "snapshot").decode()
        if not name:
            return
        packed = self.valkey.client.get(f"carousel:state:{name}")
        position = int(name.rpartition(":")[2])
        assert position < max(1, len(log)), "a snapshot ahead of the log"
        alone = Stage(self.programs[0], TOKENS)
        request = GenerationRequest(tuple(log[: position + 1]), 0, SamplingParams(0))
        alone.submit(replace(request, return_state=True))
        alone.work_to_the_end()
        assert packed == pack_state(alone.seen[0].state, DIGEST), "the snapshot is not the fold"

    def settle(self) -> None:
        """At the end of a story every turn can be brought to its end, by somebody."""
        for p in range(len(self.processes)):
            self.beat(p)
            for _ in range(60):
                self.work(p)
                self.flush(p)
            self.crash(p)
        for c in range(len(self.clients)):
            self.follow(0, c)
        self.check()
        for key in self.keys:
            status = self._found(key).session.turn.status
            active = self.valkey.client.hget(f"carousel:session:{key}", "active")
            assert status is not TurnStatus.RUNNING or active == b"turn"


def an_ask(  # noqa: PLR0917 (as many as a story has)
    n: int,
    prompt: Sequence[int] = (),
    seed: int = 1,
    key: str | None = None,
    stop: tuple[str, ...] = (),
    expected: int | None = None,
    penalty: float = 1.0,
    pattern: str | None = None,
    *,
    is_whole: bool = False,
) -> TurnRequest:
    constraint = CONSTRAINTS.compile(regex(pattern)) if pattern else None
    if constraint is not None:
        n = max(n, constraint.shortest)
    sampling = SamplingParams(seed, repetition_penalty=penalty)
    request = GenerationRequest(tuple(prompt), n, sampling, stop, constraint=constraint)
    asked = replace(request, constraint=None)
    retry = retry_of(key, asked, pattern) if key else None
    return TurnRequest(request, OnDisconnect.CANCEL, {}, retry, expected, is_whole=is_whole)
