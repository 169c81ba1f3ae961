"""One loaded model as sessions use it."""

from base64 import urlsafe_b64decode
from collections.abc import Sequence
from dataclasses import dataclass

from service.constraints.compiler import ConstraintCompiler
from service.errors import StateModelMismatch
from service.generation.engine import Engine
from service.generation.steered_engine import SteeredEngine
from service.generation.token_texts import TextRules
from service.models.spec import ModelSpec
from service.models.steering import check_steering
from service.models.tokenizers.tokenizer import Tokenizer
from service.sessions.codec import unpack_tokens
from service.sessions.session import Session
from service.sessions.steer_spans import STEERED, spans_of
from service.sessions.store_replies import damaged_log


@dataclass(frozen=True, slots=True)
class SessionModel:
    """The engine that runs a session's turns, and the shape of its states and tokens."""

    ref: str  # name@version
    digest: str
    state_units: tuple[int, ...]
    tokenizer: Tokenizer
    engine: Engine
    constraints: ConstraintCompiler
    spec: ModelSpec
    steered: SteeredEngine  # computes the steered parts of a text

    @property
    def texts(self) -> Sequence[str]:
        """The text of every token, in which stop strings are matched."""
        return self.engine.texts

    @property
    def rules(self) -> TextRules:
        """How these texts make up a text."""
        return self.engine.rules

    def tokens(self, session: Session, packed: bytes, first: int) -> list[int]:
        """Decode tokens of a session's log from `first` on. Raises SessionDamaged."""
        tokens = unpack_tokens(packed, session.width)
        if max(tokens, default=0) >= len(self.tokenizer):
            wrong = next(i for i, one in enumerate(tokens) if one >= len(self.tokenizer))
            raise damaged_log(session.key, first + wrong, first + wrong + 1)
        return tokens

    async def engine_of(self, *, is_steered: bool) -> Engine:
        """Return the engine of a turn, or of steps. Raises as `SteeredEngine.acquire`."""
        return (await self.steered.acquire()).engine if is_steered else self.engine

    def check_steer(self, lines: str) -> None:
        """Check the lines of a session's steered spans. Raises Validation."""
        for span in spans_of(lines):
            check_steering(span.steer or (), self.spec)

    def check(self, session: Session) -> None:
        """Check that a session's state belongs to this model. Raises StateModelMismatch."""
        if session.digest == urlsafe_b64decode(STEERED).hex() + self.digest:
            raise StateModelMismatch(
                "the session was forked by a server of an earlier version, which has not kept how "
                "its text was steered; fork the session that it comes from again"
            )
        if session.digest != self.digest:
            raise StateModelMismatch(
                f"the session's state belongs to {session.model} with the digest "
                f"{session.digest}; {self.ref} has {self.digest}"
            )
