"""A turn as the log tells it: what its first reader was or would have been sent, from any event on.

The log has the tokens; their logprobs are the network's once more, and the same to the last bit.
Whichever process runs the turn, or has run it, any process can follow it so.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from service.errors import GenerationFailed, PositionMismatch, SessionLost
from service.generation.engine import Stream  # noqa: TC001 (as every import here)
from service.generation.request import (
    Chunk,
    Finish,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    Token,
)
from service.generation.stopping import StopMatcher
from service.models.step import State
from service.sessions.codec import DamagedState, unpack_state, unpack_tokens
from service.sessions.model import SessionModel
from service.sessions.session import Turn, TurnStatus
from service.sessions.store import Store, StoredTurn
from service.sessions.turn_record import TurnRecord

POLL_S = 0.02
PIECE = 1_024
"""Tokens computed at a time."""

STOP_CONTEXT = 1_024
"""Characters before the first event that may belong to the beginning of a stop string."""

_REASONS = {
    TurnStatus.EOS_TOKEN: FinishReason.EOS_TOKEN,
    TurnStatus.LENGTH: FinishReason.LENGTH,
    TurnStatus.STOP_SEQUENCE: FinishReason.STOP_SEQUENCE,
}
_ENDS = {
    TurnStatus.CANCELLED: "the turn was ended before it was complete: it was cancelled, or its "
    "client or its process has left",
    TurnStatus.FAILED: "the turn failed: the network's logits were not finite numbers",
}


class Replay:
    """The chunks of one turn after an event, to be read by `async for` once.

    Raises what the turn raised, PositionMismatch where the log has been cut, and what the store
    raises.
    """

    def __init__(
        self,
        store: Store,
        voice: SessionModel,
        found: StoredTurn,
        after: int,
        prompt: str,
        take_over: Callable[[], Awaitable[None]],
        leave: Callable[[], None],
    ) -> None:
        """`found` has the turn as the session's last one, and its tokens as far as they are there.

        `leave` is called when nobody reads any more.
        """
        self.turn, self.order = found.session.turn, TurnRecord.from_json(found.request)
        self.prompt = prompt
        self._store, self._voice = store, voice
        self._key, self._birth = found.session.key, found.session.birth
        self._take_over, self._leave = take_over, leave
        self._width = found.session.width
        tokens = unpack_tokens(found.tokens, self._width)
        self.said = tokens[: after - self.turn.first]
        self._tokens = tokens[after - self.turn.first :]  # known and not scored yet
        self._position = after
        self._state: State | None = None
        least = self.order.asked.min_new_tokens
        self._stops = StopMatcher(self.order.asked.stop, least - len(self.said))
        self._held: list[tuple[Token, tuple[Token, ...]]] = []
        self._stream: Stream | None = None  # what computes just now
        self._is_cancelled = False

    def cancel(self) -> None:
        """Nobody reads any more. Harmless when it is over."""
        self._is_cancelled = True
        if self._stream is not None:
            self._stream.cancel()
        self._leave()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        self._open_stops()
        while not self._is_cancelled:
            end = self.turn.finish if self.turn.is_over else None
            ready = len(self._tokens) if end is not None else len(self._tokens) - 1
            while ready > 0 and not self._is_cancelled:
                piece = self._tokens[: min(ready, PIECE)]
                del self._tokens[: len(piece)]
                ready -= len(piece)
                is_last = end is not None and not self._tokens
                async for chunk in self._score(piece):
                    yield self._shown(chunk, is_last and chunk.finish is not None)
            if self._is_cancelled:
                return
            if self.turn.is_over:
                if self.turn.status in _ENDS:
                    raise GenerationFailed(_ENDS[self.turn.status])
                if self.turn.finish == self.turn.first:  # it had nothing to say
                    yield Chunk((), (), finish=Finish(_REASONS[self.turn.status], 0))
                return
            await self._look()

    def _open_stops(self) -> None:
        watched = self.said[self.order.asked.min_new_tokens :]
        text = self._voice.tokenizer.decode(watched[-STOP_CONTEXT:])
        for character in text:
            free, _ = self._stops.push(character)
            self._held.append((Token(-1, 0.0), ()))
            del self._held[:free]

    async def _look(self) -> None:
        """Read what has come since; take the turn over where nobody runs it."""
        known = self._position + len(self._tokens)
        found = await self._read(known)
        turn = found.session.turn
        if (turn.number, turn.epoch) != (self.turn.number, self.turn.epoch):
            raise PositionMismatch(
                f"turn {self.turn.number} is not the session's last one any more; that is "
                f"{turn.number}"
            )
        check_whole(turn)
        self.turn = turn
        end = found.session.position if turn.finish is None else turn.finish
        new = unpack_tokens(found.tokens, self._width)[: max(0, end - known)]
        self._tokens += new
        if not new and not turn.is_over:
            if not found.is_held:
                await self._take_over()
            await asyncio.sleep(POLL_S)

    async def _score(self, tokens: list[int]) -> AsyncIterator[Chunk]:
        """The chunks that drawing these tokens would have made."""
        if self._state is None or self._state.position >= self._position:
            self._state = await self._state_before(self._position)
        first = self._state.position if self._state else 0
        before = await self._read(first, self._position)
        request = GenerationRequest(
            unpack_tokens(before.tokens, self._width),
            len(tokens),
            SamplingParams(seed=0, temperature=0.0),
            top_tokens=self.order.asked.top_tokens,
            initial_state=self._state,
            forced_tokens=tokens,
            return_state=True,
        )
        self._stream = stream = self._voice.engine.submit(request)
        if self._is_cancelled:  # meanwhile
            stream.cancel()
        try:
            async for chunk in stream:
                self._position += len(chunk.tokens)
                self._state = chunk.state
                if chunk.tokens:  # else it has fed what comes before
                    yield chunk
        finally:
            stream.cancel()

    async def _read(self, first: int, last: int | None = None) -> StoredTurn:
        found = await self._store.read(self._key, first, last)
        if found.session.birth != self._birth:
            raise SessionLost(f"the session {self._key.id!r} was deleted and made again")
        return found

    async def _state_before(self, position: int) -> State | None:
        for latest_is_damaged in (False, True):
            packed = await self._store.state_before(
                self._key, position, latest_is_damaged=latest_is_damaged
            )
            if not packed:
                return None
            try:
                return unpack_state(packed, self._voice.digest, self._voice.state_units)
            except DamagedState:
                continue
        return None

    def _shown(self, chunk: Chunk, is_last: bool) -> Chunk:  # noqa: FBT001
        """The chunk as stop strings let it be seen, and the turn's own end."""
        shown: list[tuple[Token, tuple[Token, ...]]] = []
        tops, stop = chunk.top_tokens or [()] * len(chunk.tokens), None
        for token, logprob, top in zip(chunk.tokens, chunk.logprobs, tops, strict=True):
            self._held.append((Token(token, logprob), tuple(top)))
            free, stop = self._stops.push(self._voice.tokenizer.text_of(token))
            shown += self._held[:free]
            del self._held[:free]
        finish = None
        is_stop = self.turn.status is TurnStatus.STOP_SEQUENCE
        if is_last and not is_stop:
            shown += self._held
            self._held.clear()
        if is_last and self.turn.status in _REASONS:
            generated = self._position - self.turn.first
            stop_token = self._held[-1][0] if is_stop else None
            finish = Finish(_REASONS[self.turn.status], generated, stop_token, stop)
        shown = [one for one in shown if one[0].id >= 0]
        return Chunk(
            [token.id for token, _ in shown],
            [token.logprob for token, _ in shown],
            [top for _, top in shown] if self.order.asked.top_tokens else (),
            finish,
            chunk.tokens,
        )


def check_whole(turn: Turn) -> None:
    """Whether the log still has all of a turn. Raises PositionMismatch."""
    if turn.status is TurnStatus.REWOUND:
        raise PositionMismatch(
            f"the session was rewound to before the end of turn {turn.number}, at {turn.finish}"
        )
    if turn.status is TurnStatus.LOST:
        raise PositionMismatch(
            f"the store has lost the end of turn {turn.number}; it has what came before position "
            f"{turn.finish}"
        )
