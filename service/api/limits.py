"""What clients may say of a text beside its grammar: its words, its tokens and its time."""

import time
from collections.abc import Sequence
from dataclasses import asdict

from service.api.grammar import compiled
from service.api.token_ids import token_ids
from service.constraints.compiler import ConstraintCompiler
from service.constraints.constraint import Constraint
from service.constraints.spec import ConstraintSpec, limited
from service.errors import Validation
from service.generation.request import SamplingParams


def deadline_of(max_time: float | None) -> float | None:
    """When a request that comes now has to end, by the clock on the wall: any process knows it."""
    return None if max_time is None else time.time() + max_time


def check_draws_nothing(sampling: SamplingParams, search: str) -> None:
    """See that nothing says how to draw where a search, called so, draws nothing.

    A value that says nothing is none: a temperature of 1, or of 0, a penalty of 0.

    Raises:
        Validation: something does.

    """
    is_plain = sampling.temperature in {0.0, 1.0}
    plain = SamplingParams(sampling.seed, sampling.temperature if is_plain else 1.0)
    asked, nothing = asdict(sampling), asdict(plain)
    given = [name for name in asked if asked[name] != nothing[name]]
    if given:
        names = " and ".join(f"`{name}`" for name in given)
        raise Validation(f"{search} draws nothing and does not go with {names}", given[0])


async def constraint_within(
    compiler: ConstraintCompiler,
    grammar: tuple[ConstraintSpec, str] | None,
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
