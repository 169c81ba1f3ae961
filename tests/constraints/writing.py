"""Constrained text of a pseudo-random network, with the real scheduler and sampler."""

from collections.abc import Callable, Sequence

from service.constraints.constraint import Constraint
from service.generation.config import EngineConfig
from service.generation.request import Finish, GenerationRequest, SamplingParams
from service.generation.sampling import Sampler
from service.generation.scheduler import Scheduler
from service.generation.table import SlotTable
from service.models.step import StepProgram
from tests.fakes.digest_program import DigestProgram

CAPACITY = 16


def write(
    requests: Sequence[GenerationRequest],
    vocabulary: Sequence[str | None],
    program: StepProgram | None = None,
    sampler: Callable[..., Sampler] = Sampler,
) -> list[tuple[str, Finish]]:
    """Return the text and the end of each request, all run in one batch."""
    texts = [token if token is not None and len(token) == 1 else "" for token in vocabulary]
    program = program or DigestProgram(len(texts))
    scheduler = Scheduler(texts, EngineConfig(max_rows=CAPACITY, queue_limit=len(requests)))
    specials = [i for i, text in enumerate(texts) if not text]
    table = SlotTable(program, sampler(len(texts), CAPACITY, specials), CAPACITY)
    written, ends = [""] * len(requests), {}
    for key, request in enumerate(requests):
        scheduler.submit(key, request)
    while (plan := scheduler.plan()) is not None:
        for progress in scheduler.apply(plan, *table.run(plan)):
            assert progress.failure is None, "nothing was allowed"
            written[progress.key] += "".join(texts[token] for token in progress.chunk.tokens)
            if progress.chunk.finish:
                ends[progress.key] = progress.chunk.finish
    table.close()
    return [(text, ends[key]) for key, text in enumerate(written)]


def asks(constraint: Constraint | None, most: int, seed: int = 0, **params) -> GenerationRequest:
    """Return a request for at most `most` tokens under a constraint."""
    return GenerationRequest(
        (0, 2, 3), most, SamplingParams(seed=seed, **params), constraint=constraint
    )
