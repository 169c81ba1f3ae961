"""Characters per second of the step and of the engine in a process, without HTTP.

`python -m bench.decode int8 [THREADS]` is a contender: it measures for each line `step 64` or
`engine 64 [PATTERN]`. A pattern is a regular expression that constrains the streams, and must let
every text reach its limit of characters.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from bench.contender import compete
from bench.load import CHARACTERS
from bench.seed_model import SPEC, VOCABULARY, seed_weights
from service.constraints.compiler import compile_constraint
from service.constraints.constraint import Constraint
from service.constraints.spec import regex
from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.request import GenerationRequest, SamplingParams
from service.models.bundle import Precision
from service.models.compile import compile_program
from service.models.spec import ModelSpec, Weights
from service.models.tokenizers.characters import CharacterTokenizer

MEASURE_S = 1.0


class InProcess:
    """A model with an engine of its own, and no server."""

    def __init__(
        self, spec: ModelSpec, weights: Weights, precision: Precision, threads: int | None = None
    ) -> None:
        """Compile the model for so many threads, by default for all cores as the server does."""
        threads = threads or os.cpu_count() or 1
        self.program = compile_program(spec, weights, precision, threads)
        tokenizer = CharacterTokenizer(tuple(chr(0x4E00 + i) for i in range(spec.vocabulary_size)))
        self.engine = Engine(self.program, tokenizer, EngineConfig(), name="bench", threads=threads)

    @property
    def code_path(self) -> str:
        """Name the class of the step program that this processor and precision take."""
        return type(self.program).__name__

    def step_tokens_per_s(self, rows: int, seconds: float = MEASURE_S) -> float:
        """Measure the network's step alone, of a full batch."""
        batch = self.program.new_batch(rows)
        n, began_s = 0, time.perf_counter()
        while time.perf_counter() < began_s + seconds:
            for _ in range(32):
                batch.tokens[:] = (np.arange(rows) + n) % self.program.vocabulary_size
                self.program.step(batch, rows)
                n += 1
        return n * rows / (time.perf_counter() - began_s)

    async def engine_tokens_per_s(
        self,
        streams: int,
        prompt: tuple[int, ...],
        tokens: int = CHARACTERS,
        seconds: float = MEASURE_S,
        constraint: Constraint | None = None,
    ) -> float:
        """Measure a closed loop of streams; at least one of `tokens` tokens each."""
        began_s = time.perf_counter()

        async def stream(seed: int) -> int:
            n = 0
            while not n or time.perf_counter() < began_s + seconds:
                params = SamplingParams(seed=seed, temperature=0.8)
                request = GenerationRequest(prompt, tokens, params, constraint=constraint)
                async for chunk in self.engine.submit(request):
                    n += len(chunk.tokens)
            return n

        n = sum(await asyncio.gather(*map(stream, range(streams))))
        return n / (time.perf_counter() - began_s)


def costed(measure: Callable[[], float]) -> dict[str, float]:
    """Return tokens per second, and the processor time of each."""
    began_s, used_s = time.perf_counter(), time.process_time()
    rate = measure()
    used_s, elapsed_s = time.process_time() - used_s, time.perf_counter() - began_s
    return {"characters_per_s": rate, "cpu_us": 1e6 * used_s / (rate * elapsed_s)}


def main() -> None:
    """Measure for each line of standard input."""
    model = InProcess(SPEC, seed_weights(), Precision(sys.argv[1]), *map(int, sys.argv[2:]))
    with asyncio.Runner() as runner:

        async def start() -> None:
            model.engine.start()

        def engine(streams: int, *patterns: str) -> float:
            constraint = None
            if patterns:
                pattern = " ".join(patterns)
                constraint = compile_constraint(regex(pattern), list(VOCABULARY))
            measured = model.engine_tokens_per_s(streams, (1, 2, 3), constraint=constraint)
            return runner.run(measured)

        def measure(words: Sequence[str]) -> dict[str, float]:
            kind, n, *patterns = words
            if kind == "step":
                return costed(lambda: model.step_tokens_per_s(int(n)))
            return costed(lambda: engine(int(n), *patterns))

        runner.run(start())
        engine(1)
        compete(measure, model.code_path)
        model.engine.close()


if __name__ == "__main__":
    main()
