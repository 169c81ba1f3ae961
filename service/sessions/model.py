"""One loaded model as sessions use it."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.constraints.compiler import ConstraintCompiler
from service.errors import StateModelMismatch
from service.generation.engine import Engine
from service.generation.token_texts import TextRules
from service.models.tokenizers.tokenizer import Tokenizer
from service.sessions.session import Session


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

    def check(self, session: Session) -> None:
        """Check that a session's state belongs to this model. Raises StateModelMismatch."""
        if session.digest != self.digest:
            raise StateModelMismatch(
                f"the session's state belongs to {session.model} with the digest "
                f"{session.digest}; {self.ref} has {self.digest}"
            )
