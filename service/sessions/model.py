"""One loaded model as sessions use it."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.constraints.compiler import ConstraintCompiler
from service.errors import StateModelMismatch
from service.generation.engine import Engine
from service.generation.token_texts import TextRules
from service.models.tokenizers.tokenizer import Tokenizer
from service.sessions.codec import unpack_tokens
from service.sessions.session import Session
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

    def check(self, session: Session) -> None:
        """Check that a session's state belongs to this model. Raises StateModelMismatch."""
        if session.digest != self.digest:
            raise StateModelMismatch(
                f"the session's state belongs to {session.model} with the digest "
                f"{session.digest}; {self.ref} has {self.digest}"
            )
