"""Replay of a turn from its log: the chunks that its first reader was sent, from any event on.

The log has the tokens; the network computes their logprobs again, bit for bit the same. Any process
can replay any turn.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from service.errors import GenerationFailed, PositionMismatch
from service.generation.request import Chunk, Finish, FinishReason, Token, scoring_request
from service.generation.stopping import HeldTokens, TokenWithTop, chunk_of
from service.generation.stream import Stream  # noqa: TC001 (as every import here)
from service.models.step import State  # noqa: TC001 (as every import here)
from service.sessions.model import SessionModel
from service.sessions.restore import RestoredState, StateRestorer, at_turn, with_context
from service.sessions.session import Turn, TurnStatus
from service.sessions.store_replies import StoredTurn
from service.sessions.turn_record import TurnRecord

_REASONS = {TurnStatus(reason): reason for reason in FinishReason}
_ERRORS = {
    TurnStatus.CANCELLED: "the turn ended before it was complete: it was cancelled, its client "
    "disconnected, or its process stopped",
    TurnStatus.FAILED: "the turn failed: the network's logits were not finite numbers",
}


class Replay:
    """The chunks of one turn after an event, to be read by `async for` once.

    Raises the turn's error, PositionMismatch if the log was rewound, and what the store raises.
    """

    def __init__(
        self,
        restorer: StateRestorer,
        model: SessionModel,
        found: StoredTurn,
        after: int,
        prompt: str,
        take_over: Callable[[], Awaitable[None]],
        unsubscribe: Callable[[], None],
    ) -> None:
        """`found` has the turn as the session's last one, with its tokens that are committed.

        `take_over` is called if no living process runs the turn, `unsubscribe` when reading ends.
        """
        session = found.session
        self.turn, self.record = session.turn, TurnRecord.from_json(found.record)
        self.prompt = prompt
        self._restorer, self._model, self._config = restorer, model, restorer.config
        self._key, self._incarnation = session.key, session.incarnation
        self._take_over, self._unsubscribe = take_over, unsubscribe
        tokens = model.tokens(session, found.tokens, self.turn.completion_start)
        self.generated = tokens[: after - self.turn.completion_start]
        self._tokens = tokens[after - self.turn.completion_start :]  # known and not scored yet
        self._position = after
        self._state: State | None = None
        # Match stop strings from the end of the text before the first event on.
        context = self.generated[-restorer.config.stop_context_tokens :]
        request = with_context(self.record.bare, context, len(self.generated))
        self._held = HeldTokens(request, model.texts, model.rules, context)
        self._stream: Stream | None = None  # of the tokens that are being scored
        self._is_cancelled = False

    def cancel(self) -> None:
        """Stop reading. Does nothing if it has finished."""
        self._is_cancelled = True
        if self._stream is not None:
            self._stream.cancel()
        self._unsubscribe()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        while not self._is_cancelled:
            # A running turn's last token is scored later: it may turn out to be the end.
            ready = len(self._tokens) - (0 if self.turn.is_over else 1)
            while ready > 0 and not self._is_cancelled:
                tokens = self._tokens[: min(ready, self._config.replay_tokens)]
                del self._tokens[: len(tokens)]
                ready -= len(tokens)
                is_last = self.turn.is_over and not self._tokens
                async for chunk in self._score(tokens):
                    yield self._shown(chunk, is_last and chunk.finish is not None)
            if self._is_cancelled:
                return
            if self.turn.is_over:
                if self.turn.status in _ERRORS:
                    raise GenerationFailed(_ERRORS[self.turn.status])
                if self.turn.completion_end == self.turn.completion_start:  # an empty completion
                    yield Chunk((), (), finish=Finish(_REASONS[self.turn.status], 0))
                return
            await self._poll()

    async def _poll(self) -> None:
        """Read new tokens of the turn; take it over if no living process runs it."""
        known = self._position + len(self._tokens)
        found = await self._restorer.read(self._key, self._incarnation, known, None)
        turn = found.session.turn
        if (turn.number, turn.epoch) != (self.turn.number, self.turn.epoch):
            raise PositionMismatch(
                f"turn {self.turn.number} is no longer the session's last one, which is "
                f"{turn.number}"
            )
        check_complete(turn)
        self.turn = turn
        end = found.session.position if turn.completion_end is None else turn.completion_end
        new = self._model.tokens(found.session, found.tokens, known)[: max(0, end - known)]
        self._tokens += new
        if not new and not turn.is_over:
            if not found.is_held:
                await self._take_over()
            await asyncio.sleep(self._config.poll_s)

    async def _score(self, tokens: list[int]) -> AsyncIterator[Chunk]:
        """Generate the chunks of the next tokens, which are forced instead of sampled."""
        if self._state is None or self._state.position >= self._position:
            self._state = await self._restorer.state_before(self._key, self._model, self._position)
        first = self._state.position if self._state else 0
        before = await self._restorer.read(self._key, self._incarnation, first, self._position)
        prompt = self._model.tokens(before.session, before.tokens, first)
        n_top, steer = self.record.bare.top_tokens, self.record.bare.steer
        restored = await at_turn(
            self._model,
            before.session,
            RestoredState(self._state, first, prompt, first),
            self._position,
            is_turn_steered=bool(steer),
        )
        request = scoring_request(
            restored.unconsumed,
            tokens,
            restored.state,
            top_tokens=n_top,
            owner=self._key.owner,
            steer=steer,
        )
        engine = await self._model.engine_of(is_steered=bool(steer))
        self._stream = stream = engine.submit(request)
        if self._is_cancelled:  # during one of the reads
            stream.cancel()
        try:
            async for chunk in stream:
                self._position += len(chunk.tokens)
                self._state = chunk.state
                if chunk.tokens:  # otherwise it has fed the tokens before
                    yield chunk
        finally:
            stream.cancel()

    def _shown(self, chunk: Chunk, is_last: bool) -> Chunk:  # noqa: FBT001
        """Return the chunk without tokens that a stop string holds back, with the turn's end."""
        shown: list[TokenWithTop] = []
        tops = chunk.top_tokens or [()] * len(chunk.tokens)
        for token, logprob, top in zip(chunk.tokens, chunk.logprobs, tops, strict=True):
            shown += self._held.push(Token(token, logprob), top)
        finish, is_stop = None, self.turn.status is TurnStatus.STOP_SEQUENCE
        if is_last and self.turn.status in _REASONS:
            generated = self._position - self.turn.completion_start
            finish = Finish(_REASONS[self.turn.status], generated)
            if is_stop:
                finish = self._held.finish(generated)
        if is_last and not is_stop:
            shown += self._held.release()
        return chunk_of(shown, self.record.bare, finish, chunk.tokens)


def check_complete(turn: Turn) -> None:
    """Check that the log has all tokens of a turn. Raises PositionMismatch."""
    if turn.status is TurnStatus.REWOUND:
        raise PositionMismatch(
            f"the session was rewound to before the end of turn {turn.number}, "
            f"at {turn.completion_end}"
        )
    if turn.status is TurnStatus.LOST:
        raise PositionMismatch(
            f"the store has lost the end of turn {turn.number}; it has the tokens before position "
            f"{turn.completion_end}"
        )
