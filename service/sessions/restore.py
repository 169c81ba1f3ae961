"""Restoring a session: a state from the snapshot, an older snapshot, or the log alone."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.constraints.constraint import START
from service.errors import SessionLost
from service.generation.request import PENALTY_WINDOW, GenerationRequest, scoring_request
from service.generation.stopping import HeldTokens
from service.models.step import State
from service.sessions.codec import DamagedState, unpack_state
from service.sessions.config import SessionConfig
from service.sessions.model import SessionModel
from service.sessions.session import Session, SessionKey, TurnStatus
from service.sessions.state_cache import CachedState
from service.sessions.steer_spans import first_step, is_steered, legs
from service.sessions.store import Store
from service.sessions.store_replies import StoredTurn, Tail
from service.sessions.turn_record import TurnRecord

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RestoredState:
    """A state that a turn continues from, and the log's last tokens, from `first` on."""

    state: State | None
    first: int
    tokens: Sequence[int]
    snapshot_position: int

    @classmethod
    def from_cache(cls, cached: CachedState, prompt: Sequence[int]) -> "RestoredState":
        """Continue a cached session with a prompt that has been appended to its log."""
        first = cached.session.position - len(cached.tokens)
        tokens = (*cached.tokens, *prompt)
        return cls(cached.state, first, tokens, cached.state.position)

    @property
    def _n_consumed(self) -> int:
        return (self.state.position if self.state else 0) - self.first

    @property
    def unconsumed(self) -> Sequence[int]:
        """The tokens that the state has not consumed."""
        return self.tokens[self._n_consumed :]

    def continuing(self, request: GenerationRequest, n_generated: int = 0) -> GenerationRequest:
        """Return the request with this state and tokens in place of its prompt.

        The log's last `n_generated` tokens were sampled in the turn that the request continues.
        """
        n = self._n_consumed
        return replace(
            request,
            prompt=tuple(self.unconsumed),
            penalty_context=tuple(self.tokens[max(0, n - PENALTY_WINDOW) : n]),
            initial_state=self.state,
            sampled_in_prompt=min(n_generated, len(self.unconsumed)),
            return_state=True,
        )


class StateRestorer:
    """Restores states and interrupted turns from the store. Raises what `Store` raises."""

    def __init__(self, store: Store, config: SessionConfig) -> None:
        self._store, self.config = store, config

    async def read(
        self, key: SessionKey, incarnation: str, first: int, last: int | None
    ) -> StoredTurn:
        """Read the log of one incarnation. Raises SessionLost if the session has another one."""
        found = await self._store.read(key, first, last)
        if found.session.incarnation != incarnation:
            raise SessionLost(f"the session {key.id!r} was deleted and created again")
        return found

    async def state_before(
        self, key: SessionKey, model: SessionModel, position: int
    ) -> State | None:
        """Return the latest valid state that has consumed fewer than `position` tokens."""
        for latest_is_damaged in (False, True):
            packed = await self._store.state_before(
                key, position, latest_is_damaged=latest_is_damaged
            )
            state, is_damaged = _unpacked(packed, model)
            if not is_damaged:
                return state
        return None

    async def restore(self, session: Session, model: SessionModel, tail: Tail) -> RestoredState:
        """Restore the session's state from the store's latest snapshot or an older one."""
        state, is_damaged = _unpacked(tail.state, model)
        if state is not None and state.position >= session.position:
            state, is_damaged = None, True  # a state of another log
        snapshot_position = state.position if state else 0
        first, packed = tail.first, tail.tokens
        if state is None and (is_damaged or session.position > self.config.retain_every):
            older = await self._store.state_before(
                session.key, session.position, latest_is_damaged=True
            )
            state, _ = _unpacked(older, model)
        base = state.position if state else 0
        if base < first or len(packed) != (session.position - first) * session.width:
            found = await self._store.read(session.key, base, session.position)
            first, packed = base, found.tokens
        tokens = model.tokens(session, packed, first)
        return RestoredState(state, first, tokens, snapshot_position)

    async def remaining(
        self, session: Session, model: SessionModel, record: TurnRecord, restored: RestoredState
    ) -> tuple[GenerationRequest, TurnStatus | None]:
        """Return the rest of an interrupted turn's request, and its status if it is complete."""
        n_generated = session.position - session.turn.completion_start
        n_context = min(n_generated, self.config.stop_context_tokens)
        context = restored.tokens[len(restored.tokens) - n_context :]
        constraint = None
        if record.constraint is not None:
            found = await self._store.read(
                session.key, session.turn.completion_start, session.position
            )
            generated = model.tokens(session, found.tokens, session.turn.completion_start)
            whole = await model.constraints.compiled(record.constraint)
            constraint = await asyncio.to_thread(whole.after, generated)
        request = replace(
            with_context(record.request((), constraint), context, n_generated),
            max_new_tokens=record.bare.max_new_tokens - n_generated,
        )
        status = None  # of a turn whose log has all of its tokens
        ends = () if request.ignore_eos else model.rules.end_ids
        if HeldTokens(request, model.texts, model.rules, context).stop is not None:
            status = TurnStatus.STOP_SEQUENCE
        elif (n_generated and context[-1] in ends) or (
            constraint is not None and constraint.is_over(START, request.max_new_tokens)
        ):
            status = TurnStatus.EOS_TOKEN
        elif request.max_new_tokens <= 0:
            status = TurnStatus.LENGTH
        return request, status


def with_context(
    request: GenerationRequest, context: Sequence[int], n_generated: int
) -> GenerationRequest:
    """Return the request that continues after `n_generated` tokens, the last of which are given."""
    n_before = n_generated - len(context)
    return replace(
        request,
        stop_context=tuple(context),
        min_new_tokens=max(0, request.min_new_tokens - n_before),
        is_start=request.is_start and not n_before,
    )


async def at_turn(
    model: SessionModel,
    session: Session,
    restored: RestoredState,
    position: int,
    *,
    is_turn_steered: bool,
) -> RestoredState:
    """Return the state from which a turn that begins at a position of the log has its own steps.

    The steps before are left to the turn where all of them are the model's own engine's, as its
    are. Raises as `advanced`.
    """
    start, stop = restored.state.position if restored.state else 0, first_step(position)
    if is_turn_steered or is_steered(session.steer, start, stop):
        return await advanced(model, restored, session.steer, stop, session.key.owner)
    return restored


async def advanced(
    model: SessionModel, restored: RestoredState, lines: str, stop: int, owner: str = ""
) -> RestoredState:
    """Return the restored state after the steps that read the tokens before `stop`.

    `lines` are the session's steered spans. Each step is computed by the engine that has computed
    it first. `stop` is before the last token. Raises as `SteeredEngine.acquire`, Validation.
    """
    state, first = restored.state, restored.first
    for leg in legs(lines, state.position if state else 0, stop):
        tokens = restored.tokens[leg.start - first : leg.stop - first + 1]  # the last is not read
        engine = await model.engine_of(is_steered=leg.steer is not None)
        request = scoring_request(tokens, (), state, owner=owner, steer=leg.steer or ())
        async for chunk in engine.submit(request):
            state = chunk.state
        assert state is not None
        assert state.position == leg.stop
    return replace(restored, state=state)


def _unpacked(packed: bytes, model: SessionModel) -> tuple[State | None, bool]:
    """Return the state, if there is a valid one, and whether it is damaged."""
    if not packed:
        return None, False
    try:
        return unpack_state(packed, model.digest, model.state_units), False
    except DamagedState as error:
        _log.warning("a stored state is damaged (%s); it is computed again from the log", error)
        return None, True
