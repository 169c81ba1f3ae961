"""What clients may say of a text beside its grammar: its words, its tokens and its time."""

import time
from collections.abc import Sequence

from service.api.grammar import compiled
from service.api.token_ids import token_ids
from service.constraints.compiler import ConstraintCompiler
from service.constraints.constraint import Constraint
from service.constraints.source import Source, limited


def deadline_of(max_time: float | None) -> float | None:
    """When a request that comes now has to end, by the clock on the wall: any process knows it."""
    return None if max_time is None else time.time() + max_time


async def constraint_within(
    compiler: ConstraintCompiler,
    grammar: tuple[Source, str] | None,
    *,
    bad_words: Sequence[str] | None,
    allowed: Sequence[int] | None,
    least: int | None,
) -> Constraint | None:
    """What is left of a grammar, which comes with its field's name, or of any text. Compiled.

    Raises:
        Validation: it cannot be served, or nothing is left.

    """
    ids = token_ids(allowed or (), compiler.vocabulary_size, "allowed_token_ids")
    source, field = grammar or (None, "bad_words" if bad_words else "allowed_token_ids")
    source = limited(source, bad_words=bad_words or (), allowed=ids, least=least or 0)
    return None if source is None else await compiled(compiler, source, field)
