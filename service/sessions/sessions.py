"""Sessions of one process: turns begin, run, are taken over and followed here."""

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from service.constraints.constraint import START, Constraint
from service.errors import (
    CarouselError,
    KeyReused,
    ModelNotFound,
    ModelNotReady,
    ModelUnloaded,
    PositionMismatch,
    SessionBusy,
    SessionLost,
    SessionNotFound,
    StateModelMismatch,
    Validation,
)
from service.generation.request import GenerationRequest, SamplingParams
from service.generation.stopping import StopMatcher
from service.models.step import State
from service.sessions.codec import (
    DamagedState,
    Export,
    pack_state,
    pack_tokens,
    unpack_state,
    unpack_tokens,
)
from service.sessions.group_commit import GroupCommit
from service.sessions.model import SessionModel
from service.sessions.replay import STOP_CONTEXT, Replay, check_whole
from service.sessions.running_turn import Delivery, RunningTurn, TurnResult
from service.sessions.session import (
    DEFAULT_TTL_S,
    EventId,
    OnDisconnect,
    Session,
    SessionKey,
    TurnStatus,
    token_width,
)
from service.sessions.signing import Signer
from service.sessions.state_cache import StateCache
from service.sessions.store import (
    LIFE_MS,
    MARK_EVERY,
    WINDOW,
    Begun,
    Busy,
    IdempotencyKey,
    IdempotentReplay,
    Store,
    StoredTurn,
    Tail,
    new_stamp,
)
from service.sessions.turn_record import TurnRecord

BEAT_S = 1.0

# What is said of a model that is not the session's, or not that of the session as it is now.
_OF_ITS_MODEL = (StateModelMismatch, ModelNotFound, ModelNotReady, ModelUnloaded)

# What the store says where nothing has begun.
_REFUSALS = (
    SessionBusy,
    PositionMismatch,
    StateModelMismatch,
    KeyReused,
    SessionLost,
    SessionNotFound,
    Validation,
)

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What a turn is to do, and on which conditions."""

    request: GenerationRequest  # its prompt is what is new; may be empty
    mode: OnDisconnect
    reply: dict[str, Any]
    retry: IdempotencyKey | None = None
    expected_position: int | None = None
    is_whole: bool = False  # whether nobody reads it before its end
    shows_prompt: bool = False  # whether the answer begins with it


@dataclass(frozen=True, slots=True)
class _Past:
    """What a turn goes on from: a state, and the log's last tokens from `first` on."""

    state: State | None
    first: int
    tokens: Sequence[int]
    snapshot_position: int


class Sessions:
    """Every operation on sessions. Belongs to one event loop. Raises what `Store` raises."""

    def __init__(self, store: Store, ledger: GroupCommit, identity: Signer) -> None:
        self._store, self._ledger, self._identity = store, ledger, identity
        self._hot = StateCache()
        self._live: dict[SessionKey, RunningTurn] = {}
        self._beginning: set[str] = set()  # nonces of which it is not known yet what they became
        self._to_release: set[tuple[SessionKey, str]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.problem: str | None = "the store has not been asked yet"

    def start(self) -> None:
        """Begin to commit and to say that this process lives."""
        self._tasks = [
            asyncio.create_task(self._ledger.run()),
            asyncio.create_task(self._beat()),
        ]

    async def close(self) -> None:
        """Leave what still runs to others."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._store.close()

    def running(self, digest: str) -> int:
        """How many turns of a model run here."""
        return sum(live.session.digest == digest for live in self._live.values())

    # -- a session

    async def create(
        self,
        owner: str,
        voice: SessionModel,
        session_id: str | None,
        *,
        seed: int | None = None,
        ttl_s: int = DEFAULT_TTL_S,
    ) -> Session:
        """Make a session without a text. Raises SessionExists, Validation."""
        new_id = self._identity.new_id(owner) if session_id is None else session_id
        key = SessionKey(owner, new_id)
        self._hot.drop(key)  # of one that was called so, and has expired
        return await self._store.create(
            key,
            model=voice.ref,
            digest=voice.digest,
            width=token_width(len(voice.tokenizer)),
            seed=secrets.randbits(64) if seed is None else seed,
            ttl_s=ttl_s,
        )

    async def using(self, key: SessionKey, work: Callable[[Session], Awaitable[T]]) -> T:
        """Do what needs to know a session's model, which may be known here already.

        `work` begins once more where the session was made again elsewhere, with another model.
        """
        hot = self._hot.get(key)
        if hot is not None:
            with contextlib.suppress(*_OF_ITS_MODEL):
                return await work(hot.session)
            self._hot.drop(key)
        return await work(await self.look(key))

    async def look(self, key: SessionKey) -> Session:
        """A session as it stands."""
        return (await self._store.read(key, 0, 0)).session

    async def text(
        self, key: SessionKey, voice: SessionModel, first: int, most: int
    ) -> tuple[str, int]:
        """At most `most` tokens' text from position `first` on, and the position after it."""
        found = await self._store.read(key, first, first + most)
        _check_voice(found.session, voice)
        if first > found.session.position:
            raise PositionMismatch(
                f"the session is at position {found.session.position}, before {first}"
            )
        tokens = unpack_tokens(found.tokens, found.session.width)
        return voice.tokenizer.decode(tokens), first + len(tokens)

    async def past(
        self, key: SessionKey, voice: SessionModel
    ) -> tuple[State | None, Sequence[int]]:
        """A state of the session as it stands, and the tokens that this state has not consumed.

        Nothing is changed by it, and a turn that runs goes on. Raises StateModelMismatch.
        """
        session = await self.look(key)
        _check_voice(session, voice)
        if session.position == 0:
            return None, ()
        packed = await self._store.state_before(key, session.position)
        past = await self._past(session, voice, Tail(packed, session.position, b""))
        if past.first + len(past.tokens) != session.position:
            raise PositionMismatch(
                f"the session was at position {session.position} and is being cut back"
            )
        consumed = past.state.position if past.state else 0
        return past.state, past.tokens[consumed - past.first :]

    async def fork(self, key: SessionKey, n: int, at: int | None, seeds: str) -> list[Session]:
        """Make `n` sessions that share what this one has said. Raises PositionMismatch."""
        children = [SessionKey(key.owner, self._identity.new_id(key.owner)) for _ in range(n)]
        return await self._store.fork(key, children, at, seeds)

    async def rewind(self, key: SessionKey, to: int) -> Session:
        """Cut it back to `to` tokens. Raises SessionBusy, PositionMismatch."""
        self._hot.drop(key)
        return await self._store.rewind(key, to)

    async def cancel(self, key: SessionKey, turn: int | None = None) -> Session:
        """End the turn that runs, or only this one, at what it has committed; else do nothing."""
        session = await self.look(key)
        if session.active != "turn" or turn not in {None, session.turn.number}:
            return session
        live = self._live.get(key)
        if live is not None and live.is_of(session):  # it leaves a state, which the store cannot
            live.cancel()
            await live.ended.wait()
        return await self._store.cancel(key, session.turn)

    async def delete(self, key: SessionKey) -> None:
        """Remove it; a turn of it that runs ends."""
        self._hot.drop(key)
        await self._store.delete(key)
        if key in self._live:
            self._ledger.add(self._live[key])  # it hears that it is gone

    async def export(self, key: SessionKey, voice: SessionModel) -> bytes:
        """All of it, signed; the state has consumed every token but the last."""
        found = await self._store.read(key)
        session = found.session
        _check_voice(session, voice)
        state = b""
        if session.position > 1:
            packed = await self._store.state_before(key, session.position)
            past = await self._past(session, voice, Tail(packed, 0, found.tokens))
            settled = await self._settle(voice, past)
            state = pack_state(settled, session.digest)
        whole = Export(
            session.model, session.digest, session.seed, session.width, found.tokens, state
        )
        return whole.pack(self._identity)

    def open_export(self, content: bytes) -> Export:
        """Read an exported session. Raises Validation."""
        return Export.unpack(content, self._identity)

    async def import_(self, owner: str, exported: Export, voice: SessionModel) -> Session:
        """Make a session of an exported one. Raises StateModelMismatch, Validation."""
        if exported.digest != voice.digest:
            raise StateModelMismatch(
                f"the session was exported from {exported.model} with the digest "
                f"{exported.digest}; {voice.ref} here has {voice.digest}"
            )
        state_position = 0
        if exported.state:
            try:
                state = unpack_state(exported.state, voice.digest, voice.state_units)
            except DamagedState as error:
                raise Validation(f"the exported state is damaged: {error}") from error
            state_position = state.position
        return await self._store.create(
            SessionKey(owner, self._identity.new_id(owner)),
            model=voice.ref,
            digest=voice.digest,
            width=exported.width,
            seed=exported.seed,
            ttl_s=DEFAULT_TTL_S,
            tokens=exported.tokens,
            state=exported.state,
            state_position=state_position,
        )

    # -- a turn

    async def begin(
        self, session: Session, voice: SessionModel, ask: TurnRequest
    ) -> RunningTurn | Replay:
        """Begin a turn, or follow the one that the same idempotency key began.

        Raises:
            SessionBusy, PositionMismatch, StateModelMismatch, KeyReused, Overloaded, Draining.

        """
        _check_voice(session, voice)
        voice.engine.check_capacity()
        begun = await self._begin(session, voice, ask, "turn")
        if isinstance(begun, RunningTurn):
            return begun
        if not begun.is_turn:
            raise Validation("the Idempotency-Key belongs to an append, not to a turn")
        turn = begun.found.session.turn
        check_whole(turn)
        return await self._replay(voice, begun.found, turn.first)

    async def append(
        self,
        session: Session,
        voice: SessionModel,
        prompt: Sequence[int],
        retry: IdempotencyKey | None = None,
        expected_position: int | None = None,
    ) -> int:
        """Feed a session without generating; return its position. Raises as `begin`."""
        _check_voice(session, voice)
        voice.engine.check_capacity()
        request = GenerationRequest(prompt, 0, SamplingParams(session.seed))
        ask = TurnRequest(request, OnDisconnect.CONTINUE, {}, retry, expected_position)
        begun = await self._begin(session, voice, ask, "append")
        if not isinstance(begun, RunningTurn):
            return begun.position
        async for _ in begun.stream:
            pass
        return begun.position

    async def follow(
        self, key: SessionKey, voice: SessionModel, after: EventId | None
    ) -> Replay | None:
        """The running or last turn after an event; None where nothing comes after it.

        Raises:
            PositionMismatch: the event is not of the last turn, or its log has been cut.

        """
        found = await self._store.read_turn(key)
        session, turn = found.session, found.session.turn
        _check_voice(session, voice)
        if after is not None and (after.epoch, after.turn) != (turn.epoch, turn.number):
            raise PositionMismatch(
                f"the last event is of turn {after.turn} in epoch {after.epoch}; the session's "
                f"last turn is {turn.number} in epoch {turn.epoch}"
            )
        check_whole(turn)
        position = turn.first if after is None else max(turn.first, after.position)
        if position > (session.position if turn.finish is None else turn.finish):
            raise PositionMismatch(
                f"the last event brought the session to {position}; the store has it at "
                f"{session.position}: it has lost what came after"
            )
        if turn.is_over and position == turn.finish:
            return None
        return await self._replay(voice, found, position)

    async def _replay(self, voice: SessionModel, found: StoredTurn, after: int) -> Replay:
        session, turn = found.session, found.session.turn
        if not found.request:
            raise SessionLost("the store has lost what the session's last turn was asked to do")
        prompt = ""
        if TurnRecord.from_json(found.request).shows_prompt:
            prompt, _ = await self.text(session.key, voice, turn.start, turn.first - turn.start)

        async def take_over() -> None:
            await self._resume(session.key, voice)

        live, leave = self._live.get(session.key), lambda: None
        if live is not None and live.is_of(session):
            leave = live.follow()
        return Replay(self._store, voice, found, after, prompt, take_over, leave)

    async def _begin(
        self, session: Session, voice: SessionModel, ask: TurnRequest, kind: str
    ) -> RunningTurn | IdempotentReplay:
        key, nonce = session.key, new_stamp()
        hot = self._hot.get(key)
        order = TurnRecord.of(ask.request, ask.mode, ask.reply, shows_prompt=ask.shows_prompt)
        begun = None
        self._beginning.add(nonce)
        try:
            begun = await self._store.begin(
                key,
                nonce=nonce,
                kind=kind,
                birth=session.birth,
                prompt=pack_tokens(ask.request.prompt, session.width),
                request=order.to_json(),
                expected_position=ask.expected_position,
                known=hot.session if hot else None,
                retry=ask.retry,
            )
            if isinstance(begun, IdempotentReplay):
                return begun
            if isinstance(begun, Busy):
                self._let_go(key, begun.nonce)
                raise SessionBusy("a turn of the session is running; wait for its end")
            if begun.tail is not None:
                past = await self._past(begun.session, voice, begun.tail)
            else:
                assert hot is not None
                tokens = (*hot.tokens, *ask.request.prompt)
                first = hot.session.position - len(hot.tokens)
                past = _Past(hot.state, first, tokens, hot.state.position)
            reading = Delivery(ask.mode, ask.is_whole)
            return self._run(begun.session, nonce, voice, ask.request, reading, past)
        except BaseException as error:  # a cancelled caller's too
            is_refused = isinstance(error, _REFUSALS) and not isinstance(begun, Begun)
            if not is_refused:  # it may have begun: nobody here goes on with it
                self._to_release.add((key, nonce))
            raise
        finally:
            self._beginning.discard(nonce)

    async def _resume(self, key: SessionKey, voice: SessionModel) -> None:
        """Go on with a turn that no living process runs, for whoever follows its log."""
        if key in self._live:
            return  # it runs here; a store that was away has forgotten that this process lives
        voice.engine.check_capacity()
        nonce = new_stamp()
        self._beginning.add(nonce)
        try:
            resumed = await self._store.resume(key, nonce)
            if resumed is None:
                return
            session, text, tail = resumed
            _check_voice(session, voice)
            past = await self._past(session, voice, tail)
            order = TurnRecord.from_json(text)
            n_said = session.position - session.turn.first
            least = order.asked.min_new_tokens
            n_watched = min(max(0, n_said - least), STOP_CONTEXT)
            said = past.tokens[len(past.tokens) - n_watched :]
            constraint = await self._constraint(session, voice, order)
            request = replace(
                order.request((), constraint),
                max_new_tokens=order.asked.max_new_tokens - n_said,
                min_new_tokens=max(0, least - n_said),
                stop_context=voice.tokenizer.decode(said),
            )
            status = _end_of(request)
            reading = Delivery(OnDisconnect.CONTINUE)
            self._run(session, nonce, voice, request, reading, past, status).detach()
        except BaseException:
            self._to_release.add((key, nonce))
            raise
        finally:
            self._beginning.discard(nonce)

    async def _constraint(
        self, session: Session, voice: SessionModel, order: TurnRecord
    ) -> Constraint | None:
        """What the running turn's constraint lets follow what it has said."""
        source = order.constraint
        if source is None:
            return None
        first, width = session.turn.first, session.width
        said = (await self._store.read(session.key, first, session.position)).tokens
        whole = await voice.constraints.compiled(source)
        return await asyncio.to_thread(whole.after, unpack_tokens(said, width))

    def _let_go(self, key: SessionKey, nonce: str) -> None:
        """Release a turn that is said to run here and does not: its beginning came too late."""
        live = self._live.get(key)
        is_known = nonce in self._beginning or (live is not None and live.nonce == nonce)
        if nonce and not is_known:
            self._to_release.add((key, nonce))

    def _run(
        self,
        session: Session,
        nonce: str,
        voice: SessionModel,
        request: GenerationRequest,
        reading: Delivery,
        past: _Past,
        status: TurnStatus | None = None,
    ) -> RunningTurn:
        consumed = past.state.position if past.state else 0
        n_before = consumed - past.first  # tokens that the state has consumed
        request = replace(
            request,
            prompt=tuple(past.tokens[n_before:]),
            penalty_context=tuple(past.tokens[max(0, n_before - WINDOW) : n_before]),
            initial_state=past.state,
            return_state=True,
        )
        live = RunningTurn(
            session, nonce, voice.engine, request, reading, past.snapshot_position, self._ended
        )
        self._live[session.key] = live
        if status is None:
            live.start(request, self._ledger.add)
        else:
            live.close(status, self._ledger.add)
        return live

    async def _past(self, session: Session, voice: SessionModel, tail: Tail) -> _Past:
        """Restore what a turn goes on from, from an older state where the latest is damaged."""
        state, is_damaged = _unpacked(tail.state, voice)
        if state is not None and state.position >= session.position:
            state, is_damaged = None, True  # a state of another log than this
        snapshot_position = state.position if state else 0
        first, packed = tail.first, tail.tokens
        if state is None and (is_damaged or session.position > MARK_EVERY):
            older = await self._store.state_before(
                session.key, session.position, latest_is_damaged=True
            )
            state, _ = _unpacked(older, voice)
        base = state.position if state else 0
        if base < first or len(packed) != (session.position - first) * session.width:
            found = await self._store.read(session.key, base, session.position)
            first, packed = base, found.tokens
        return _Past(state, first, unpack_tokens(packed, session.width), snapshot_position)

    async def _settle(self, voice: SessionModel, past: _Past) -> State:
        """The state that has consumed every token but the last."""
        consumed = past.state.position if past.state else 0
        request = GenerationRequest(
            past.tokens[consumed - past.first :],
            0,
            SamplingParams(0),
            initial_state=past.state,
            return_state=True,
        )
        state = past.state
        async for chunk in voice.engine.submit(request):
            state = chunk.state
        assert state is not None
        return state

    # -- what happens by itself

    def _ended(self, ending: TurnResult) -> None:
        key = ending.turn.session.key
        if self._live.get(key) is ending.turn:
            del self._live[key]
        self._hot.drop(key)
        if ending.hot is not None:
            self._hot.put(key, ending.hot)
        if ending.error is not None:
            self._to_release.add((key, ending.turn.nonce))

    async def beat(self) -> None:
        """Say that this process lives, keep its turns, and let go what it cannot go on with."""
        for live in self._live.values():
            self._ledger.add(live)  # a turn that waits or is fed has no news for long
        await self._store.beat(LIFE_MS)
        for key, nonce in list(self._to_release):
            await self._store.release(key, nonce)
            self._to_release.discard((key, nonce))

    async def _beat(self) -> None:
        while True:
            try:
                await self.beat()
                self.problem = None
            except CarouselError as error:
                self.problem = str(error)
            except Exception as error:  # noqa: BLE001 (it must go on)
                self.problem = "the store does not answer"
                _log.debug("a heartbeat was lost: %s", error)
            await asyncio.sleep(BEAT_S)


def retry_of(key: str | None, *asked: object) -> IdempotencyKey | None:
    """An idempotency key with the fingerprint of what was asked."""
    if key is None:
        return None
    if not 1 <= len(key) <= 255:
        raise Validation(f"the Idempotency-Key has {len(key)} characters; 1 to 255 are allowed")
    return IdempotencyKey(key, hashlib.sha256(repr(asked).encode()).hexdigest()[:32])


def _check_voice(session: Session, voice: SessionModel) -> None:
    if session.digest != voice.digest:
        raise StateModelMismatch(
            f"the session's state belongs to {session.model} with the digest {session.digest}; "
            f"{voice.ref} has {voice.digest}"
        )


def _unpacked(packed: bytes, voice: SessionModel) -> tuple[State | None, bool]:
    """A state, or None and whether that is because it is damaged."""
    if not packed:
        return None, False
    try:
        return unpack_state(packed, voice.digest, voice.state_units), False
    except DamagedState as error:
        _log.warning("a state in the store is damaged (%s); it is made again from the log", error)
        return None, True


def _end_of(request: GenerationRequest) -> TurnStatus | None:
    """How a turn has ended, if all that it was to say is in the log already.

    `request` is what is left of it; the log's end is what it has `said`.
    """
    matcher, stop = StopMatcher(request.stop), None
    for character in request.stop_context:
        _, stop = matcher.push(character)
    if stop is not None:
        return TurnStatus.STOP_SEQUENCE
    constraint, left = request.constraint, request.max_new_tokens
    if constraint is not None and constraint.is_over(START, left):
        return TurnStatus.EOS_TOKEN
    return TurnStatus.LENGTH if left <= 0 else None
