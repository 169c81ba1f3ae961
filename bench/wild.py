"""Serving against the generation loops of well-known tutorials, as people run them.

`python -m bench.wild` prints the figures. Loop and engine alternate, so that other load on the
machine affects both. A token is a character, or a word for the next-word model. The weights are
random, since speed does not depend on them. A last part compares the engine with the network's
step alone at a vocabulary of 20,000 words.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import wild_loops
from bench.seed_model import SPEC
from bench.wild_table import STREAMS
from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.request import GenerationRequest, SamplingParams
from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.compile import compile_program
from service.models.spec import ModelSpec, Weights
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.window import Padding, Window

ROUNDS, WINDOWED_TOKENS, CARRIED_TOKENS = 5, 48, 512
MODELS: dict[str, tuple[ModelSpec, Callable[[], wild_loops.Loop]]] = {
    "[Keras's example](https://keras.io/examples/generative/"
    "lstm_character_level_text_generation/): "
    "`predict` on 40 one-hot characters, LSTM(128)": (
        ModelSpec(57, None, (LayerSpec("lstm", 128),), window=Window(40, Padding.NONE)),
        wild_loops.one_hot,
    ),
    "[the next-word recipe](https://machinelearningmastery.com/"
    "how-to-develop-a-word-level-neural-language-model-keras/): "
    "`pad_sequences` and `predict`, LSTM(150)": (
        ModelSpec(3_000, 100, (LayerSpec("lstm", 150),), window=Window(15, Padding.LEFT, 0)),
        wild_loops.next_word,
    ),
    "[TensorFlow's tutorial](https://www.tensorflow.org/text/tutorials/text_generation): "
    "`@tf.function`, GRU(1024)": (
        ModelSpec(66, 256, (LayerSpec("gru", 1024),)),
        wild_loops.one_step,
    ),
    "[the article](docs/glossary.md): eager, LSTM(1024)": (SPEC, wild_loops.article),
}
WIDE_MODELS = (
    ModelSpec(20_000, 256, (LayerSpec("gru", 1024),)),
    ModelSpec(20_000, 100, (LayerSpec("lstm", 150),)),
)
WIDE_ROWS, WIDE_TOKENS = 64, 256


def random_weights(spec: ModelSpec) -> Weights:
    """Return Glorot-uniform kernels."""
    rng, arrays = np.random.default_rng(2015), {}
    for name, shape in spec.weight_shapes.items():
        limit = np.sqrt(6.0 / sum(shape)) if len(shape) > 1 else 0.0
        arrays[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
    return Weights(spec, arrays)


class _Served:
    """A model in an engine of its own."""

    def __init__(self, spec: ModelSpec, precision: Precision) -> None:
        threads = os.cpu_count() or 1
        self.program = compile_program(spec, random_weights(spec), precision, threads)
        tokenizer = CharacterTokenizer(tuple(chr(0x4E00 + i) for i in range(spec.vocabulary_size)))
        self.engine = Engine(self.program, tokenizer, EngineConfig(), name="wild", threads=threads)
        self._prompt = tuple(1 + i % 50 for i in range(spec.window.length if spec.window else 6))

    async def _read(self, seed: int, tokens: int) -> int:
        asked = GenerationRequest(self._prompt, tokens, SamplingParams(seed=seed))
        return sum([len(chunk.tokens) async for chunk in self.engine.submit(asked)])

    async def tokens_per_s(self, streams: int, tokens: int) -> float:
        began = time.perf_counter()
        n = sum(await asyncio.gather(*(self._read(seed, tokens) for seed in range(streams))))
        return n / (time.perf_counter() - began)


def _paired_ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


async def _measured(spec: ModelSpec, loop: wild_loops.Loop) -> dict[str, Any]:
    served = _Served(spec, Precision.FLOAT32 if spec.window else Precision.INT8)
    served.engine.start()
    tokens = WINDOWED_TOKENS if spec.window else CARRIED_TOKENS
    await served.tokens_per_s(1, tokens)
    loop.run(5)
    speeds: dict[str, list[float]] = {"author": [], **{str(n): [] for n in STREAMS}}
    for _ in range(ROUNDS):
        began = time.perf_counter()
        loop.run(loop.tokens)
        speeds["author"].append(loop.tokens / (time.perf_counter() - began))
        for streams in STREAMS:
            speeds[str(streams)].append(await served.tokens_per_s(streams, tokens))
    served.engine.close()
    medians = {name: statistics.median(each) for name, each in speeds.items()}
    ratios = {str(n): _paired_ratio(speeds[str(n)], speeds["author"]) for n in STREAMS}
    return {"tokens_per_s": medians, "ratios": ratios, "rounds": speeds}


async def _wide(spec: ModelSpec) -> dict[str, Any]:
    """Compare the engine at a full batch with the network's step alone."""
    served = _Served(spec, Precision.INT8)
    batch = served.program.new_batch(WIDE_ROWS)

    def stepped() -> float:
        began = time.perf_counter()
        for step in range(WIDE_TOKENS):
            batch.tokens[:] = np.arange(WIDE_ROWS) + step
            served.program.step(batch, WIDE_ROWS)
        return WIDE_ROWS * WIDE_TOKENS / (time.perf_counter() - began)

    served.engine.start()
    await served.tokens_per_s(WIDE_ROWS, WIDE_TOKENS)
    step, engine = [], []
    for _ in range(ROUNDS):
        step.append(stepped())
        engine.append(await served.tokens_per_s(WIDE_ROWS, WIDE_TOKENS))
    served.engine.close()
    medians = {"step": statistics.median(step), "engine": statistics.median(engine)}
    return {"tokens_per_s": medians, "ratio": _paired_ratio(engine, step)}


def measured() -> dict[str, Any]:
    """Measure every model; the progress goes to standard error."""
    began, load_before, models = time.monotonic(), os.getloadavg()[0], {}
    for name, (spec, loop) in MODELS.items():
        print(f"{name}: {spec.summary}", file=sys.stderr, flush=True)
        models[name] = {"model": spec.summary, **asyncio.run(_measured(spec, loop()))}
        shown = ", ".join(f"{n} streams × {x:.0f}" for n, x in models[name]["ratios"].items())
        print(f"  {shown}", file=sys.stderr, flush=True)
    wide = {}
    for spec in WIDE_MODELS:
        print(f"{WIDE_ROWS} rows of {spec.summary}", file=sys.stderr, flush=True)
        wide[spec.summary] = asyncio.run(_wide(spec))
        print(f"  × {wide[spec.summary]['ratio']:.2f}", file=sys.stderr, flush=True)
    return {
        "seconds": round(time.monotonic() - began),
        "load_before": round(load_before, 1),
        "models": models,
        "wide": wide,
    }


if __name__ == "__main__":
    print(json.dumps(measured()))
