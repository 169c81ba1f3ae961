"""Processes, clients and a store that can be made to fail at any step, without threads or clocks.

The store is a real Valkey and `service.sessions` is unchanged; the engine runs a burst only when it
is called. After every action the promises are checked against what the clients have received and
against the same turn generated without interruption.
"""

import asyncio
import contextlib
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hiredis import ReplyError

from service.constraints.compiler import ConstraintCompiler
from service.constraints.spec import regex
from service.errors import CarouselError, StoreUnavailable
from service.generation.config import EngineConfig
from service.generation.request import GenerationRequest, SamplingParams, scoring_request
from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.compile import compile_program
from service.models.spec import ModelSpec, Weights
from service.models.steered_program import SteeredProgram
from service.models.steering import Steering, packed
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.tokenizer import Tokenizer
from service.sessions.cluster_client import ClusterClient
from service.sessions.codec import pack_state, unpack_tokens
from service.sessions.config import SessionConfig
from service.sessions.group_commit import GroupCommit
from service.sessions.idempotency import idempotency_key
from service.sessions.model import SessionModel
from service.sessions.redis_client import ScriptClient, read_scripts
from service.sessions.redis_connection import RedisConnection
from service.sessions.replay import Replay
from service.sessions.running_turn import RunningTurn
from service.sessions.session import EventId, OnDisconnect, Session, SessionKey, TurnStatus
from service.sessions.sessions import Sessions
from service.sessions.signing import Signer
from service.sessions.store import Store
from service.sessions.store_client import names_of
from service.sessions.store_replies import CommitEntry, StoredTurn, session_of
from service.sessions.turn_prompt import TurnPrompt
from service.sessions.turn_record import TurnRecord
from service.sessions.turns import TurnRequest
from tests.generation.invariance import Stage
from tests.sessions.cluster import UNDECLARED, OwnCluster
from tests.sessions.hand_engine import CONFIG as ENGINE_CONFIG
from tests.sessions.hand_engine import HandEngine, HandSteered
from tests.sessions.valkey import OwnValkey

TOKENS = "abcdefg"
SPEC = ModelSpec(len(TOKENS), None, (LayerSpec("lstm", 8),))
DIGEST = "ab" * 32
CONSTRAINTS = ConstraintCompiler(TOKENS)
CONFIG = SessionConfig(retry_pause_s=0.0, poll_s=0.0)
START_ATTEMPTS = 20
FAULTS = ("request lost", "reply lost")
APPEND_LIMIT_S, IDLE_LIMIT_S = 10.0, 0.03
"""How long work may wait without progress. In a story a replay may wait for an idle process."""


def make_program(drift: int = 0) -> Any:
    """A network with fixed weights; with a drift slightly different ones, as on another machine."""
    return compile_program(SPEC, _weights(drift), Precision.FLOAT32, 1)


@functools.cache
def make_steered() -> Any:
    """A program that steers. It drifts, so that a step computed by the wrong engine is seen."""
    return SteeredProgram(SPEC, _weights(9), Precision.FLOAT32)


def _weights(drift: int) -> Weights:
    random, noise = np.random.default_rng(1), np.random.default_rng(drift)
    arrays = {
        name: random.normal(0.0, 1.5, shape).astype(np.float32)
        for name, shape in SPEC.weight_shapes.items()
    }
    if drift:
        for name, array in arrays.items():
            arrays[name] = array + noise.normal(0.0, 0.1, array.shape).astype(np.float32)
    return Weights(SPEC, arrays)


Parts = tuple[tuple[int, Steering | None], ...]
"""The first step of each part of a log, and how it is steered; None: by the plain engine."""

PLAIN: Parts = ((0, None),)


def up_to(parts: Parts, position: int) -> Parts:
    """The parts of a log that is cut at a position: its last token has not been read."""
    return tuple(part for part in parts if part[0] < position - 1) or PLAIN


class Reference:
    """What one network generates without interruption. It is pure, so results are kept."""

    def __init__(self, program: Any, steered: Any = None) -> None:
        self._program, self._steered = program, steered
        self._turns: dict[tuple[str, tuple[int, ...], int, Parts], tuple[list[int], str]] = {}
        self._states: dict[tuple[tuple[int, ...], Parts], bytes] = {}

    def turn(
        self, record: str, before: tuple[int, ...], start: int = 0, parts: Parts = PLAIN
    ) -> tuple[list[int], str]:
        """The tokens of a turn after a log, those of a stop string included, and why it ends.

        The turn begins at `start`; the log before it has these parts.
        """
        key = record, before, start, parts
        if key not in self._turns:
            parsed = TurnRecord.from_json(record)
            constraint = CONSTRAINTS.compile(parsed.constraint) if parsed.constraint else None
            request = parsed.request(before, constraint)
            if request.steer or parts != PLAIN:
                first = max(0, start - 1)
                request = replace(
                    request,
                    prompt=before[first:],
                    penalty_context=before[:first],
                    initial_state=self._fold(before[: first + 1], parts),
                )
            seen = self._run(request, is_steered=bool(request.steer))
            self._turns[key] = seen.sampled, seen.finish.reason.value
        return self._turns[key]

    def state(self, tokens: tuple[int, ...], parts: Parts = PLAIN) -> bytes:
        """The packed state after all tokens but the last."""
        if (tokens, parts) not in self._states:
            self._states[tokens, parts] = pack_state(self._fold(tokens, parts), DIGEST)
        return self._states[tokens, parts]

    def _fold(self, tokens: tuple[int, ...], parts: Parts) -> Any:
        state, end = None, len(tokens) - 1
        stops = [start for start, _ in parts[1:]] + [end]
        for (start, steer), stop in zip(parts, stops, strict=True):
            last = min(stop, end)
            if start < last:
                request = scoring_request(tokens[start : last + 1], (), state, steer=steer or ())
                state = self._run(request, is_steered=steer is not None).state
        return state

    def _run(self, request: GenerationRequest, *, is_steered: bool = False) -> Any:
        stage = Stage(self._steered if is_steered else self._program, TOKENS)
        stage.submit(request)
        stage.work_to_the_end()
        return stage.seen[0]


_reference = functools.cache(Reference)


class FaultyClient(ScriptClient):
    """A client that loses the requests or replies in `faults`."""

    def __init__(
        self, url: str, config: SessionConfig, scripts: dict[str, str], faults: list[str]
    ) -> None:
        super().__init__(url, config, scripts)
        self._faults = faults

    async def _connected(self) -> Any:
        return FaultyConnection(await super()._connected(), self._faults)


class FaultyCluster(ClusterClient):
    """As FaultyClient, to the nodes of a cluster."""

    def __init__(
        self, url: str, config: SessionConfig, scripts: dict[str, str], faults: list[str]
    ) -> None:
        super().__init__(url, config, scripts)
        self._faults = faults

    def _node(self, name: str) -> ScriptClient:
        if name not in self._nodes:
            url = self._address.url_of(name)
            node = FaultyClient(url, self._config, self._scripts, self._faults)
            node.is_node, node.greeting = True, self.greeting
            self._nodes[name] = node
        return self._nodes[name]


class WatchedStore(Store):
    """Counts the conflicts: commits of tokens that differ from those in the log."""

    conflicts = 0

    async def commit(
        self, version: str, entries: Sequence[CommitEntry]
    ) -> list[tuple[str, int] | CarouselError]:
        outcomes = await super().commit(version, entries)
        found = [one for one in outcomes if not isinstance(one, CarouselError)]
        self.conflicts += sum(outcome == "CONFLICT" for outcome, _ in found)
        return outcomes


class FaultyConnection:
    def __init__(self, connection: RedisConnection, faults: list[str]) -> None:
        self._connection, self._faults = connection, faults

    async def call(self, *command: Any) -> Any:
        fault = self._faults.pop(0) if self._faults and command[0] == "EVALSHA" else ""
        if fault == "request lost":
            raise ConnectionError(fault)
        reply = await self._connection.call(*command)
        if fault == "reply lost":
            raise ConnectionError(fault)
        assert not (isinstance(reply, ReplyError) and UNDECLARED in str(reply)), reply
        return reply

    def close(self) -> None:
        self._connection.close()


@dataclass
class Client:
    """A client of a turn, and the tokens that it has received, in order."""

    key: SessionKey
    wanted: TurnRequest
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
        config = world.config
        made = FaultyCluster if world.names.is_cluster else FaultyClient
        clients = [made(world.valkey.url, config, world.scripts, self.faults) for _ in range(2)]
        self.store = WatchedStore(*clients, world.signer, self.name, config, world.names)
        self.commits = world.commit_class(self.store)
        self.sessions = Sessions.compose(self.store, self.commits, world.signer, config)
        self.records, self.turns = self.sessions.records, self.sessions.turns
        self.registry = self.sessions.registry
        self.engine = HandEngine(
            world.programs[number % len(world.programs)], world.tokenizer, world.engine_config
        )
        self.engines = [self.engine]
        if world.steered is not None:
            self.engines.append(HandEngine(world.steered, world.tokenizer, world.engine_config))
        self.model = SessionModel(
            "tiny@1",
            DIGEST,
            SPEC.state_units,
            world.tokenizer,
            self.engine,
            CONSTRAINTS,
            SPEC,
            HandSteered(self.engines[-1]),
        )
        self.is_zombie = False

    def work(self) -> bool:
        """Run one burst of each engine; return whether there was anything to do."""
        worked = [engine.work() for engine in self.engines]
        return any(worked)

    async def begin(self, key: SessionKey, wanted: TurnRequest) -> RunningTurn | Replay:
        async def begin(session: Session) -> RunningTurn | Replay:
            return await self.turns.begin(session, self.model, wanted)

        return await self.records.with_session(key, begin)

    async def beat(self) -> None:
        await self.sessions.heartbeat.send()
        await self.store.heartbeat(10**7)


class World:
    def __init__(
        self,
        valkey: OwnValkey | OwnCluster,
        programs: Sequence[Any],
        scripts: dict[str, str] | None = None,
        commit_class: type[GroupCommit] = GroupCommit,
        config: SessionConfig = CONFIG,
        replay_limit_s: float = APPEND_LIMIT_S,
        engine_config: EngineConfig = ENGINE_CONFIG,
        *,
        tokenizer: Tokenizer | None = None,
        steered: Any = None,
    ) -> None:
        self.valkey, self.programs = valkey, programs  # one, or slightly different ones
        self.names = names_of(valkey.url)
        self.steered = steered
        self.reference = _reference(programs[0], steered)
        self.parts: dict[SessionKey, Parts] = {}
        self.last_turns: dict[SessionKey, tuple[int, int]] = {}
        self.scripts = scripts or read_scripts()
        self.commit_class, self.config = commit_class, config
        self.engine_config = engine_config
        self.replay_limit_s = replay_limit_s
        self.tokenizer = tokenizer or CharacterTokenizer(TOKENS)
        self.signer = Signer(b"x" * 32)
        self.loop = asyncio.new_event_loop()
        valkey.client.flushall()
        self.n_processes = 0
        self.ever: list[Process] = []
        self.processes = [self._new_process() for _ in range(2)]
        self.clients: list[Client] = []
        self.keyed: list[tuple[int, TurnRequest]] = []  # with a key: these may come again
        self.keys: list[SessionKey] = []
        self.by_id: dict[tuple[SessionKey, str], tuple[int, float]] = {}
        self.turns_by_key: dict[tuple[SessionKey, str], tuple[int, int]] = {}
        self.logs: dict[SessionKey, tuple[int, list[int]]] = {}  # cuts so far, and the log
        self.cuts: dict[SessionKey, int] = {}
        self.refusals: list[CarouselError] = []

    def close(self) -> None:
        async def close() -> None:
            for process in self.ever:
                for client in (process.store._client, process.store._commit_client):
                    await client.close()
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
            for attempt in range(1, START_ATTEMPTS + 1):
                try:
                    await process.beat()
                    break
                except StoreUnavailable:  # a busy machine: a story's calls have little time
                    if attempt == START_ATTEMPTS:
                        raise
            return process

        return self.loop.run_until_complete(make())

    # -- actions of a story

    def create(self, text: Sequence[int], seed: int) -> None:
        process = self.processes[0]
        session = self.do(process.records.create("", process.model, None, seed=seed))
        self.keys.append(session.key)
        self.cuts[session.key] = 0
        if text:
            self.append(0, len(self.keys) - 1, text)

    def append(self, p: int, s: int, text: Sequence[int]) -> None:
        process = self.processes[p]

        async def append() -> None:
            async def feed(session: Session) -> None:
                appending = process.turns.append(session, process.model, TurnPrompt(text))
                await self._driven(process, appending, APPEND_LIMIT_S)

            await process.records.with_session(self.keys[s], feed)

        n_refused = len(self.refusals)
        self._tried(append())
        if len(self.refusals) == n_refused:
            self._observe(self.keys[s])  # a turn may have ended before it
            self._begin_part(self.keys[s], len(self._log_now(self.keys[s])) - len(text), None)

    def begin(self, p: int, s: int, wanted: TurnRequest) -> None:
        process = self.processes[p]
        client = Client(self.keys[s], wanted)
        if wanted.idempotency is not None:
            self.keyed.append((s, wanted))

        async def begin() -> None:
            begun = await process.begin(client.key, wanted)
            if isinstance(begun, Replay):
                client.number = (begun.turn.epoch, begun.turn.number)
                client.first = begun.turn.completion_start
                self._note_key(client)
                self.clients.append(client)
                await self._driven(process, self._read_replay(client, begun), self.replay_limit_s)
            else:
                turn = begun.session.turn
                client.turn, client.first = begun, turn.completion_start
                client.number = (turn.epoch, turn.number)
                self._note_key(client)
                self.clients.append(client)

        self._tried(self._scored(process, begin()))

    async def _scored(self, process: Process, work: Any) -> None:
        """Await work for which steps may have to be computed again, apart from a turn."""
        task = asyncio.ensure_future(work)
        while not task.done():
            for engine in process.engines:
                if engine.scoring:
                    engine.work()
            await asyncio.sleep(0)
        await task

    def _note_key(self, client: Client) -> None:
        if client.wanted.idempotency is not None:
            known = self.turns_by_key.setdefault(
                (client.key, client.wanted.idempotency.key), client.number
            )
            assert known == client.number, "one key, two turns"

    def retry(self, p: int, a: int) -> None:
        """A client that got no response sends its request again, with the same key."""
        if self.keyed:
            self.begin(p, *self.keyed[a % len(self.keyed)])

    def busy(self, i: int) -> int:
        """Choose one of the processes that run a turn, if there are any."""
        busy = [p for p, process in enumerate(self.processes) if process.registry._running]
        return busy[i % len(busy)] if busy else i % len(self.processes)

    def work(self, p: int) -> None:
        self.processes[p].work()

    def pass_deadline(self, p: int) -> None:
        """End every turn that has a deadline, as the engine does when it has passed."""
        process = self.processes[p]
        for key, turn in list(process.registry._running.items()):
            record = self._found(key).record
            if record and TurnRecord.from_json(record).bare.deadline_s is not None:
                turn._engine.finish(turn)

    def flush(self, p: int, faults: Sequence[str] = ()) -> None:
        process = self.processes[p]
        process.faults[:] = faults
        self.do(process.commits.flush())
        process.faults.clear()
        assert not process.store.conflicts, "two writers"
        self.read()

    def commit_with_faults(self, p: int, faults: Sequence[str]) -> None:
        """Commit new tokens while the request or its reply is lost."""
        self.work(p)
        self.flush(p, faults)

    def read(self) -> None:
        """Let every client receive the chunks of its stream."""
        for client in self.clients:
            while client.turn is not None and client.turn.stream._chunks:
                chunk = self.do(anext(client.turn.stream))
                self._take(client, chunk)

    def disconnect(self, c: int) -> None:
        if self.clients:
            client = self.clients[c % len(self.clients)]
            if client.turn is not None:
                client.turn.stream.cancel()
                client.turn = None

    def crash(self, p: int) -> None:
        """Kill a process, let its heartbeat expire, and start a new one in its place."""
        self._expire(self.processes[p])
        for client in self.clients:
            if client.turn is not None and client.turn._engine in self.processes[p].engines:
                client.turn = None
        self.processes[p] = self._new_process()

    def stall(self, p: int) -> None:
        """Stall a process until its heartbeat has expired; it continues with its next action.

        Its clients reconnect elsewhere, and still read what it sends to their old connections.
        """
        self._expire(self.processes[p])
        for client in list(self.clients):
            if client.turn is not None and client.turn._engine in self.processes[p].engines:
                self.clients.append(replace(client, turn=None, seen=list(client.seen)))

    def _expire(self, process: Process) -> None:
        self.valkey.client.delete(self.names.process(process.name))

    def heartbeat(self, p: int) -> None:
        self._tried(self.processes[p].beat())

    def follow(self, p: int, c: int) -> None:
        """Let a client without a stream request the rest of its turn's events."""
        if not self.clients:
            return
        process, client = self.processes[p], self.clients[c % len(self.clients)]
        if client.turn is not None or client.number is None or client.is_over:
            return

        async def follow() -> None:
            after = EventId(*client.number, client.first + len(client.seen))
            replay = await process.turns.follow(client.key, process.model, after)
            if replay is None:
                client.is_over = True
            else:
                await self._driven(process, self._read_replay(client, replay), self.replay_limit_s)

        self._tried(follow())

    def stall_and_take_over(self, p: int) -> None:
        """Stall a process before a commit while another one takes over its turns and samples."""
        self.work(p)
        self.stall(p)
        other = self.processes[1 - p]
        for key in list(self.processes[p].registry._running):
            self._tried(self._scored(other, other.turns.take_over(key, other.model)))
        self.work(1 - p)

    async def _read_replay(self, client: Client, replay: Replay) -> None:
        try:
            async for chunk in replay:
                self._take(client, chunk)
        finally:
            replay.cancel()
        client.is_over = True

    async def _driven(self, process: Process, work: Any, patience_s: float) -> None:
        """Run a task while its process generates; cancel it after `patience_s` without progress."""
        task = asyncio.ensure_future(work)
        until = self.loop.time() + patience_s
        while not task.done() and self.loop.time() < until:
            if process.work():
                until = self.loop.time() + patience_s
            await process.commits.flush()
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
            (child,) = await process.records.fork(key, 1, there, seeds)
            self.keys.append(child.key)
            self.cuts[child.key] = 0
            self.parts[child.key] = up_to(self.parts.get(key, PLAIN), there)
            assert self._log_now(child.key) == log[:there]
            assert child.turn.number == 0
            assert (child.seed == before.seed) == (seeds == "same")

        self._tried(fork())

    def rewind(self, p: int, s: int, to: int) -> None:
        process, key = self.processes[p], self.keys[s]

        async def rewind() -> None:
            log = self._log_now(key)
            session = await process.records.rewind(key, to)
            self.parts[key] = up_to(self.parts.get(key, PLAIN), to)
            self.cuts[key] += 1
            assert session.position == to
            self.logs[key] = (self.cuts[key], log[:to])

        self._tried(rewind())

    def cancel(self, p: int, s: int) -> None:
        process, key = self.processes[p], self.keys[s]
        before = len(self._log_now(key))

        async def cancel() -> None:
            await self._driven(process, process.turns.cancel(key), APPEND_LIMIT_S)
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
        """P1 and P2: a token that is sent is in the log, and an event id stands for one token."""
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
        fields = self.valkey.client.hgetall(self.names.record(key))
        request = self.valkey.client.get(self.names.request(key)) or b""
        pairs = [part for pair in {**fields, b"left_ms": b"1"}.items() for part in pair]
        return StoredTurn(session_of(key, pairs), request.decode(), is_held=False, tokens=b"")

    def _log_now(self, key: SessionKey) -> list[int]:
        """Read the log without the scripts."""
        record = {
            name.decode(): value.decode()
            for name, value in self.valkey.client.hgetall(self.names.record(key)).items()
        }
        parts = [part.split(":") for part in record["chain"].split(",") if part]
        parts.append([record["tail"], record["position"], ""])
        log, first = b"", 0
        for segment, last, _ in parts:
            content = self.valkey.client.get(self.names.part(key, "log", segment)) or b""
            log += content[: int(last) - first]
            first = int(last)
        whole = self.valkey.client.get(self.names.part(key, "log", record["tail"])) or b""
        assert len(whole) == int(record["position"]) - int(record["base"]), "position and log"
        assert len(log) == int(record["position"]), "the log is not whole"
        return unpack_tokens(log, 1)

    def check(self) -> None:
        for key in self.keys:
            log = self._log_now(key)
            cuts, before = self.logs.get(key, (0, []))
            assert cuts != self.cuts[key] or log[: len(before)] == before, "the log has changed"
            self.logs[key] = (self.cuts[key], log)
            self._observe(key)
            self._check_steer(key)
            if len(self.programs) == 1:
                self._check_turn(key, log)
                self._check_snapshot(key, log)

    def _observe(self, key: SessionKey) -> None:
        """Note how the session's last turn is steered, the first time that it is seen."""
        found = self._found(key)
        turn = found.session.turn
        if turn.number and self.last_turns.get(key) != (turn.epoch, turn.number):
            self.last_turns[key] = turn.epoch, turn.number
            if found.record:
                steer = TurnRecord.from_json(found.record).bare.steer
                self._begin_part(key, turn.prompt_start, steer or None)

    def _begin_part(self, key: SessionKey, position: int, steer: Steering | None) -> None:
        first = max(0, position - 1)
        before = tuple(one for one in self.parts.get(key, PLAIN) if one[0] < first)
        self.parts[key] = (*before, (first, steer))

    def _check_steer(self, key: SessionKey) -> None:
        """The record has the parts that were steered, as they were seen from outside."""
        session, parts = self._found(key).session, self.parts.get(key, PLAIN)
        stops = [first for first, _ in parts[1:]] + [max(0, session.position - 1)]
        lines = []
        for i, ((first, steer), stop) in enumerate(zip(parts, stops, strict=True)):
            is_open = session.active == "turn" and i == len(parts) - 1
            if steer is not None and (is_open or first < stop):
                text = json.dumps(packed(steer), separators=(",", ":"))
                lines.append(f"{first} {'' if is_open else stop} {text}\n")
        assert session.steer == "".join(lines), "the record has other steered parts"

    def _check_turn(self, key: SessionKey, log: list[int]) -> None:
        """P3: the last turn has generated what it generates without interruption."""
        found = self._found(key)
        turn = found.session.turn
        if (
            turn.status in {TurnStatus.NONE, TurnStatus.REWOUND, TurnStatus.LOST}
            or not found.record
        ):
            return
        record = TurnRecord.from_json(found.record)
        generated = log[turn.completion_start : turn.completion_end]
        start = turn.prompt_start
        parts = up_to(self.parts.get(key, PLAIN), start)
        drawn, reason = self.reference.turn(
            found.record, tuple(log[: turn.completion_start]), start, parts
        )
        assert generated == drawn[: len(generated)], (
            "not what the turn generates without interruption"
        )
        is_late = record.bare.deadline_s is not None and turn.status is TurnStatus.LENGTH
        if (
            turn.status in {TurnStatus.EOS_TOKEN, TurnStatus.LENGTH, TurnStatus.STOP_SEQUENCE}
            and not is_late
        ):
            assert len(generated) == len(drawn), "ended before its end"
            assert turn.status.value == reason

    def _check_snapshot(self, key: SessionKey, log: list[int]) -> None:
        name = self.valkey.client.hget(self.names.record(key), "snapshot").decode()
        if not name:
            return
        packed = self.valkey.client.get(self.names.part(key, "state", name))
        position = int(name.rpartition(":")[2])
        assert position < max(1, len(log)), "a snapshot ahead of the log"
        parts = up_to(self.parts.get(key, PLAIN), position + 1)
        fold = self.reference.state(tuple(log[: position + 1]), parts)
        assert packed == fold, "the snapshot is not the fold of the log"

    def finish_all(self) -> None:
        """At the end of a story some process can bring every turn to its end."""
        for p in range(len(self.processes)):
            self.heartbeat(p)
            idle = 0
            for _ in range(60):
                idle = 0 if self.processes[p].work() else idle + 1
                self.flush(p)
                if idle == 2:
                    break
            self.crash(p)
        for c in range(len(self.clients)):
            self.follow(0, c)
        self.check()
        for key in self.keys:
            status = self._found(key).session.turn.status
            active = self.valkey.client.hget(self.names.record(key), "active")
            assert status is not TurnStatus.RUNNING or active == b"turn"


def turn_request(  # noqa: PLR0917 (as many as a story varies)
    n: int,
    prompt: Sequence[int] = (),
    seed: int = 1,
    key: str | None = None,
    stop: tuple[str, ...] = (),
    expected: int | None = None,
    penalty: float = 1.0,
    pattern: str | None = None,
    *,
    is_streamed: bool = True,
    steer: Steering = (),
) -> TurnRequest:
    constraint = CONSTRAINTS.compile(regex(pattern)) if pattern else None
    if constraint is not None:
        n = max(n, constraint.shortest)
    sampling = SamplingParams(seed, repetition_penalty=penalty)
    request = GenerationRequest(
        tuple(prompt), n, sampling, stop, constraint=constraint, steer=steer
    )
    asked = replace(request, constraint=None)
    retry = idempotency_key(key, asked, pattern) if key else None
    return TurnRequest(request, OnDisconnect.CANCEL, {}, retry, expected, is_streamed=is_streamed)
