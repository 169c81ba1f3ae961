"""What a session's turns run on: one loaded model, as far as this room needs to know it."""

from dataclasses import dataclass

from service.constraints.compiler import ConstraintCompiler
from service.generation.engine import Engine
from service.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class SessionModel:
    """A model that speaks: its engine, and what its states and tokens look like."""

    ref: str  # name@version
    digest: str
    state_units: tuple[int, ...]
    tokenizer: Tokenizer
    engine: Engine
    constraints: ConstraintCompiler
