"""Turns of sessions: begin, append, follow, take over after a crash, cancel."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

from service.errors import (
    CarouselError,
    PositionMismatch,
    SessionBusy,
    SessionDamaged,
    SessionLost,
    StoreFull,
    StoreUnavailable,
    Validation,
)
from service.generation.request import GenerationRequest, SamplingParams
from service.sessions.codec import pack_tokens
from service.sessions.group_commit import GroupCommit
from service.sessions.idempotency import IdempotencyKey
from service.sessions.model import SessionModel
from service.sessions.replay import Replay, check_complete
from service.sessions.restore import RestoredState, StateRestorer, at_turn
from service.sessions.running_turn import Delivery, RunningTurn
from service.sessions.session import EventId, OnDisconnect, Session, SessionKey
from service.sessions.state_cache import StateCache
from service.sessions.steer_spans import steer_text
from service.sessions.store import Store
from service.sessions.store_replies import Busy, IdempotentReplay, StoredTurn
from service.sessions.turn_prompt import TurnPrompt
from service.sessions.turn_record import TurnRecord
from service.sessions.turn_registry import TurnRegistry

_GONE = (StoreUnavailable, StoreFull, SessionLost)  # after these nothing can be taken back


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A generation request for a session, and the conditions of the turn."""

    request: GenerationRequest  # its prompt is the new text only, and may be empty
    on_disconnect: OnDisconnect
    reply: dict[str, Any]  # options of the TGI reply that a replay needs: `details`, `prefix`
    idempotency: IdempotencyKey | None = None
    expected_position: int | None = None
    is_streamed: bool = True  # or else the response is sent at the end, as one
    shows_prompt: bool = False  # whether the response begins with the prompt
    made_for: int | None = None  # of the prompt


@dataclass(frozen=True, slots=True)
class Turns:
    """Operations on turns. Not thread-safe: one event loop only. Raises as `Store`."""

    store: Store
    registry: TurnRegistry
    group_commit: GroupCommit
    cache: StateCache
    restorer: StateRestorer

    async def begin(
        self, session: Session, model: SessionModel, turn_request: TurnRequest
    ) -> RunningTurn | Replay:
        """Begin a turn, or replay the one that the same idempotency key began.

        Raises SessionBusy, PositionMismatch, SessionMoved, StateModelMismatch, KeyReused,
        Overloaded, Draining.
        """
        begun = await self._begin(session, model, turn_request, "turn")
        if isinstance(begun, RunningTurn):
            return begun
        if not begun.is_turn:
            raise Validation("the Idempotency-Key belongs to an append, not to a turn")
        turn = begun.found.session.turn
        check_complete(turn)
        return await self._replay(model, begun.found, turn.completion_start)

    async def append(
        self,
        session: Session,
        model: SessionModel,
        prompt: TurnPrompt,
        idempotency: IdempotencyKey | None = None,
        expected_position: int | None = None,
    ) -> int:
        """Feed a session without generating; return its position. Raises as `begin`."""
        request = GenerationRequest(prompt.tokens, 0, SamplingParams(session.seed))
        turn_request = TurnRequest(
            request,
            OnDisconnect.CONTINUE,
            {},
            idempotency,
            expected_position,
            made_for=prompt.made_for,
        )
        begun = await self._begin(session, model, turn_request, "append")
        if not isinstance(begun, RunningTurn):
            return begun.position
        async for _ in begun.stream:
            pass
        return begun.position

    async def follow(
        self, key: SessionKey, model: SessionModel, after: EventId | None
    ) -> Replay | None:
        """Replay the running or last turn after an event; return None if no event follows it.

        Raises PositionMismatch if the event is not of the last turn, or its log was rewound.
        """
        found = await self.store.read(key, None)
        session, turn = found.session, found.session.turn
        model.check(session)
        if after is not None and (after.epoch, after.turn) != (turn.epoch, turn.number):
            raise PositionMismatch(
                f"the last event is of turn {after.turn} in epoch {after.epoch}; the session's "
                f"last turn is {turn.number} in epoch {turn.epoch}"
            )
        check_complete(turn)
        position = (
            turn.completion_start if after is None else max(turn.completion_start, after.position)
        )
        if position > (session.position if turn.completion_end is None else turn.completion_end):
            raise PositionMismatch(
                f"the last event is at position {position}, but the session in the store is at "
                f"{session.position}: the store has lost what came after"
            )
        if turn.is_over and position == turn.completion_end:
            return None
        return await self._replay(model, found, position)

    async def cancel(self, key: SessionKey, turn: int | None = None) -> Session:
        """End the running turn at its committed tokens, or only the turn of this number."""
        session = await self.store.session(key)
        if session.active != "turn" or turn not in {None, session.turn.number}:
            return session
        running = self.registry.running(key)
        if running is not None and running.is_last_of(session):
            running.cancel()  # unlike the store's cancel it commits a snapshot
            await running.ended.wait()
        return await self.store.cancel(key, session.turn)

    async def take_over(self, key: SessionKey, model: SessionModel) -> None:
        """Take over an orphaned turn; it runs without a client attached."""
        if self.registry.running(key) is not None:
            return  # it runs here, and the store has lost this process's heartbeat
        model.engine.check_capacity(1, key.owner)
        with (
            self.registry.new_fencing_token(key) as token,
            self.registry.release_on_error(key, token),
        ):
            taken = await self.store.take_over(key, token)
            if taken is None:
                return
            self.registry.takeovers += 1
            session, text, tail = taken
            model.check(session)
            record = TurnRecord.from_json(text)
            try:
                restored = await self.restorer.restore(session, model, tail)
                request, status = await self.restorer.remaining(session, model, record, restored)
            except SessionDamaged:  # nobody can continue it
                await self.store.cancel(key, session.turn)
                raise
            delivery, engine = Delivery(OnDisconnect.CONTINUE), model.engine
            if status is None:
                is_steered, start = bool(request.steer), session.turn.prompt_start
                restored = await at_turn(
                    model, session, restored, start, is_turn_steered=is_steered
                )
                engine = await model.engine_of(is_steered=is_steered)
            turn = self.registry.make(session, token, engine, delivery, restored)
            if status is None:
                n_generated = session.position - session.turn.completion_start
                turn.start(restored.continuing(request, n_generated), self.group_commit.add)
            else:
                turn.commit_end(status, self.group_commit.add)
            turn.detach()

    async def _begin(
        self,
        session: Session,
        model: SessionModel,
        turn_request: TurnRequest,
        kind: Literal["turn", "append"],
    ) -> RunningTurn | IdempotentReplay:
        model.check(session)
        steer = turn_request.request.steer
        engine = await model.engine_of(is_steered=bool(steer))
        engine.check_capacity(1, session.key.owner)
        key, cached, prompt = session.key, self.cache.get(session.key), turn_request.request.prompt
        if kind == "turn":
            model.engine.prompts.check(session.position + len(prompt))
        record = TurnRecord.json_of(
            turn_request.request,
            turn_request.on_disconnect,
            turn_request.reply,
            shows_prompt=turn_request.shows_prompt,
        )
        with self.registry.new_fencing_token(key) as token:
            begun = await self.store.begin(
                key,
                fencing_token=token,
                kind=kind,
                incarnation=session.incarnation,
                prompt=pack_tokens(prompt, session.width),
                record=record,
                expected_position=turn_request.expected_position,
                made_for=turn_request.made_for,
                known=cached.session if cached else None,
                idempotency=turn_request.idempotency,
                steer=steer_text(steer),
                steered_at=session.position,
            )
            if isinstance(begun, IdempotentReplay):
                return begun
            if isinstance(begun, Busy):
                self.registry.release_unknown(key, begun.fencing_token)
                raise SessionBusy("a turn of the session is running; wait for its end")
            with self.registry.release_on_error(key, token):
                start = begun.session.position - len(prompt)
                async with self._taken_back_on_error(begun.session, token, start):
                    if begun.tail is not None:
                        restored = await self.restorer.restore(begun.session, model, begun.tail)
                    else:
                        assert cached is not None
                        restored = RestoredState.from_cache(cached, prompt)
                    restored = await at_turn(
                        model, begun.session, restored, start, is_turn_steered=bool(steer)
                    )
                    # It may have been dropped since: its memory was needed.
                    engine = await model.engine_of(is_steered=bool(steer))
                delivery = Delivery(turn_request.on_disconnect, turn_request.is_streamed)
                turn = self.registry.make(begun.session, token, engine, delivery, restored)
                turn.start(restored.continuing(turn_request.request), self.group_commit.add)
                return turn

    @contextlib.asynccontextmanager
    async def _taken_back_on_error(
        self, session: Session, token: str, start: int
    ) -> AsyncIterator[None]:
        """Take the prompt of a turn that has begun back where its state cannot be computed.

        Otherwise each new attempt would add its prompt to a log that nobody can continue.
        """
        try:
            yield
        except CarouselError as error:
            if isinstance(error, SessionDamaged) or not isinstance(error, _GONE):
                await self.store.release(session.key, token)
                await self.store.rewind(session.key, start)
            raise

    async def _replay(self, model: SessionModel, found: StoredTurn, after: int) -> Replay:
        session, turn = found.session, found.session.turn
        if not found.record:
            raise SessionLost("the store has lost the record of the session's last turn")
        prompt = ""
        if TurnRecord.from_json(found.record).shows_prompt:
            read = await self.restorer.read(
                session.key, session.incarnation, turn.prompt_start, turn.completion_start
            )
            tokens = model.tokens(read.session, read.tokens, turn.prompt_start)
            prompt = model.tokenizer.decode(tokens)

        async def take_over() -> None:
            await self.take_over(session.key, model)

        running, unsubscribe = self.registry.running(session.key), lambda: None
        if running is not None and running.is_last_of(session):
            unsubscribe = running.add_reader()
        return Replay(self.restorer, model, found, after, prompt, take_over, unsubscribe)
