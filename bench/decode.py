"""Characters per second of the engine alone, without HTTP, optionally with a constraint.

The constraint must let every text reach its limit of characters.
"""

import asyncio
import json
import os
import sys
import time

from bench.seed_model import SPEC, VOCABULARY, seed_weights
from service.constraints.compiler import compile_constraint
from service.constraints.constraint import Constraint
from service.constraints.spec import regex
from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.request import GenerationRequest, SamplingParams
from service.models.bundle import Precision
from service.models.compile import compile_program
from service.models.tokenizers.characters import CharacterTokenizer

CHARACTERS, ROUNDS = 512, 3


async def _read(engine: Engine, seed: int, constraint: Constraint | None) -> int:
    params = SamplingParams(seed=seed, temperature=0.8)
    request = GenerationRequest((1, 2, 3), CHARACTERS, params, constraint=constraint)
    n = 0
    async for chunk in engine.submit(request):
        n += len(chunk.tokens)
    return n


async def measure(precision: Precision, streams: int, pattern: str = "") -> float:
    """Return characters per second of `streams` concurrent generations, best of a few rounds.

    `pattern` is a regular expression that constrains them.
    """
    constraint = compile_constraint(regex(pattern), list(VOCABULARY)) if pattern else None
    threads = os.cpu_count() or 1
    program = compile_program(SPEC, seed_weights(), precision, threads)
    engine = Engine(
        program, CharacterTokenizer(VOCABULARY), EngineConfig(), name="bench", threads=threads
    )
    engine.start()
    await _read(engine, 0, constraint)
    best = 0.0
    for _ in range(ROUNDS):
        start = time.perf_counter()
        n = sum(await asyncio.gather(*(_read(engine, i, constraint) for i in range(streams))))
        best = max(best, n / (time.perf_counter() - start))
    engine.close()
    return best


def main() -> None:
    """`python -m bench.decode int8 64 [pattern]` prints one figure as JSON."""
    figure = measure(Precision(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:4])
    print(json.dumps(asyncio.run(figure)))


if __name__ == "__main__":
    main()
