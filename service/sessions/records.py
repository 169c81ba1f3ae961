"""Records of sessions: create, read, fork, rewind, delete, export, import."""

import contextlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from service.errors import (
    ModelNotFound,
    ModelNotReady,
    ModelUnloaded,
    PositionMismatch,
    SessionMoved,
    StateModelMismatch,
    Validation,
)
from service.models.step import State
from service.sessions.codec import DamagedState, Export, pack_state, unpack_state
from service.sessions.key_names import group_of
from service.sessions.model import SessionModel
from service.sessions.page import Cursor, SessionPage
from service.sessions.restore import StateRestorer, advanced, at_turn
from service.sessions.session import DEFAULT_TTL_S, Session, SessionKey, token_width
from service.sessions.signing import Signer
from service.sessions.state_cache import StateCache
from service.sessions.steer_spans import cut, first_step
from service.sessions.store import Store
from service.sessions.store_replies import Tail
from service.sessions.turn_prompt import TurnPrompt, depends_on_position
from service.sessions.turn_registry import TurnRegistry

# Errors that a cached record may cause: the session was changed, or created with another model.
_STALE_ERRORS = (StateModelMismatch, ModelNotFound, ModelNotReady, ModelUnloaded, SessionMoved)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SessionRecords:
    """Operations on sessions. Not thread-safe: one event loop only. Raises what `Store` raises."""

    store: Store
    registry: TurnRegistry
    cache: StateCache
    restorer: StateRestorer
    signer: Signer

    async def create(
        self,
        owner: str,
        model: SessionModel,
        session_id: str | None,
        *,
        seed: int | None = None,
        ttl_s: int = DEFAULT_TTL_S,
        most: int = 0,
    ) -> Session:
        """Create a session without text, of `most` of its owner; 0: no limit.

        Raises SessionExists, TooLarge, Validation.
        """
        new_id = self.signer.new_id(owner) if session_id is None else session_id
        key = SessionKey(owner, new_id)
        self.cache.drop(key)  # of an expired session with the same id
        width = token_width(len(model.tokenizer))
        seed = secrets.randbits(64) if seed is None else seed
        content = Export(model.ref, model.digest, seed, width, b"", b"")
        return await self.store.create(key, content, ttl_s, most=most)

    async def with_session(self, key: SessionKey, work: Callable[[Session], Awaitable[T]]) -> T:
        """Call `work` with the session's record, cached or read from the store.

        `work` uses the record to find the session's model and its position. It is called a second
        time if the cached record is not the current one in this.
        """
        cached = self.cache.get(key)
        if cached is not None:
            with contextlib.suppress(*_STALE_ERRORS):
                return await work(cached.session)
            self.cache.drop(key)
        return await work(await self.read(key))

    async def read(self, key: SessionKey) -> Session:
        """Read a session's record from the store."""
        return await self.store.session(key)

    async def page(self, owner: str, limit: int, after: Cursor | None) -> SessionPage:
        """Read an owner's sessions, the newest first, from a place in their order on."""
        return await self.store.page(owner, limit, after)

    async def text(
        self, key: SessionKey, model: SessionModel, first: int, n: int
    ) -> tuple[str, int]:
        """Return the text of `n` tokens or fewer from `first` on, and the position after it."""
        found = await self.store.read(key, first, first + n)
        model.check(found.session)
        if first > found.session.position:
            raise PositionMismatch(
                f"the session is at position {found.session.position}, before {first}"
            )
        tokens = model.tokens(found.session, found.tokens, first)
        return model.tokenizer.decode(tokens, is_start=not first), first + len(tokens)

    async def turn_prompt(
        self, session: Session, model: SessionModel, text: str | Sequence[int]
    ) -> TurnPrompt:
        """Return the prompt of a turn, for the position of this record. Raises UnknownCharacter."""
        has_text = session.position > 0
        if session.position == 1 and depends_on_position(model.tokenizer):
            first, _ = await self.text(session.key, model, 0, 1)
            has_text = bool(first)  # else the log is a begin token
        return TurnPrompt.of(model.tokenizer, text, session.position, has_text=has_text)

    async def latest_state(
        self, key: SessionKey, model: SessionModel
    ) -> tuple[State | None, Sequence[int]]:
        """Return a state of the session, and the tokens of its log that the state has not consumed.

        It changes nothing, also while a turn runs. Raises StateModelMismatch, PositionMismatch.
        """
        session = await self.read(key)
        model.check(session)
        if session.position == 0:
            return None, ()
        packed = await self.store.state_before(key, session.position)
        restored = await self.restorer.restore(session, model, Tail(packed, session.position, b""))
        if restored.first + len(restored.tokens) != session.position:
            raise PositionMismatch(
                f"the session was at position {session.position} and is being rewound"
            )
        restored = await at_turn(model, session, restored, session.position, is_turn_steered=False)
        return restored.state, restored.unconsumed

    async def fork(
        self, key: SessionKey, n: int, at: int | None, seeds: str, most: int = 0
    ) -> list[Session]:
        """Create `n` sessions that share this one's log up to `at`, of `most` of the owner.

        Raises PositionMismatch, TooLarge.
        """
        group = group_of(key.id)  # they share its log
        children = [SessionKey(key.owner, self.signer.new_id(key.owner, group)) for _ in range(n)]
        return await self.store.fork(key, children, at, seeds, most)

    async def rewind(self, key: SessionKey, to: int) -> Session:
        """Truncate it to `to` tokens. Raises SessionBusy, PositionMismatch."""
        self.cache.drop(key)
        return await self.store.rewind(key, to)

    async def delete(self, key: SessionKey) -> None:
        """Delete it; its running turn ends."""
        self.cache.drop(key)
        await self.store.delete(key)
        self.registry.commit(key)

    async def export(self, key: SessionKey, model: SessionModel) -> bytes:
        """Return the signed log and state; the state has consumed every token but the last."""
        found = await self.store.read(key)
        session = found.session
        model.check(session)
        state, steer = b"", cut(session.steer, session.position)
        if session.position > 1:
            packed = await self.store.state_before(key, session.position)
            tail = Tail(packed, 0, found.tokens)
            restored = await self.restorer.restore(session, model, tail)
            stop = first_step(session.position)
            before_last = (await advanced(model, restored, steer, stop, key.owner)).state
            assert before_last is not None
            state = pack_state(before_last, session.digest)
        export = Export(
            session.model, session.digest, session.seed, session.width, found.tokens, state, steer
        )
        return export.pack(self.signer)

    def open_export(self, content: bytes) -> Export:
        """Read an exported session. Raises Validation."""
        return Export.unpack(content, self.signer)

    async def import_(
        self, owner: str, exported: Export, model: SessionModel, most: int = 0
    ) -> Session:
        """Create a session from an exported one, of `most` of its owner.

        Raises StateModelMismatch, TooLarge, Validation.
        """
        if exported.digest != model.digest:
            raise StateModelMismatch(
                f"the session was exported from {exported.model} with the digest "
                f"{exported.digest}; {model.ref} here has {model.digest}"
            )
        model.check_steer(exported.steer)
        if exported.steer != cut(exported.steer, len(exported.tokens) // exported.width):
            raise Validation("the exported session is steered beyond the end of its text")
        state_position = 0
        if exported.state:
            try:
                state = unpack_state(exported.state, model.digest, model.state_units)
            except DamagedState as error:
                raise Validation(f"the exported state is damaged: {error}") from error
            state_position = state.position
        key = SessionKey(owner, self.signer.new_id(owner))
        content = replace(exported, model=model.ref)
        return await self.store.create(key, content, DEFAULT_TTL_S, state_position, most=most)
