"""Serving against the generation loops of well-known tutorials, as people run them.

`python -m bench.wild` prints the figures. Loop and engine alternate, so that other load on the
machine affects both. A token is a character, or a word for the next-word model. The weights are
random, since speed does not depend on them.
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
_TUTORIAL = ModelSpec(66, 256, (LayerSpec("gru", 1024),))
MODELS: dict[str, tuple[ModelSpec, Callable[[], wild_loops.Loop]]] = {
    "Keras's one-hot example, `predict` per character": (
        ModelSpec(57, None, (LayerSpec("lstm", 128),), window=Window(40, Padding.NONE)),
        wild_loops.one_hot,
    ),
    "next word, `pad_sequences` and `predict` per word": (
        ModelSpec(3_000, 100, (LayerSpec("lstm", 150),), window=Window(15, Padding.LEFT, 0)),
        wild_loops.next_word,
    ),
    "TensorFlow's tutorial, eager": (_TUTORIAL, wild_loops.eager),
    "TensorFlow's tutorial, `@tf.function`": (_TUTORIAL, wild_loops.one_step),
}


def random_weights(spec: ModelSpec) -> Weights:
    """Return Glorot-uniform kernels."""
    rng, arrays = np.random.default_rng(2015), {}
    for name, shape in spec.weight_shapes.items():
        limit = np.sqrt(6.0 / sum(shape)) if len(shape) > 1 else 0.0
        arrays[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
    return Weights(spec, arrays)


async def _measured(spec: ModelSpec, loop: wild_loops.Loop) -> dict[str, Any]:
    precision = Precision.FLOAT32 if spec.window else Precision.INT8
    threads = os.cpu_count() or 1
    program = compile_program(spec, random_weights(spec), precision, threads)
    tokenizer = CharacterTokenizer(tuple(chr(0x4E00 + i) for i in range(spec.vocabulary_size)))
    engine = Engine(program, tokenizer, EngineConfig(), name="wild", threads=threads)
    engine.start()
    prompt = tuple(1 + i % 50 for i in range(spec.window.length if spec.window else 6))

    tokens = WINDOWED_TOKENS if spec.window else CARRIED_TOKENS

    async def read(seed: int) -> int:
        asked = GenerationRequest(prompt, tokens, SamplingParams(seed=seed))
        return sum([len(chunk.tokens) async for chunk in engine.submit(asked)])

    async def served(streams: int) -> float:
        began = time.perf_counter()
        n = sum(await asyncio.gather(*(read(seed) for seed in range(streams))))
        return n / (time.perf_counter() - began)

    await served(1)
    loop.run(5)
    speeds: dict[str, list[float]] = {"author": [], **{str(n): [] for n in STREAMS}}
    for _ in range(ROUNDS):
        began = time.perf_counter()
        loop.run(loop.tokens)
        speeds["author"].append(loop.tokens / (time.perf_counter() - began))
        for streams in STREAMS:
            speeds[str(streams)].append(await served(streams))
    engine.close()
    medians = {name: statistics.median(each) for name, each in speeds.items()}
    ratios = {
        str(n): statistics.median(
            a / b for a, b in zip(speeds[str(n)], speeds["author"], strict=True)
        )
        for n in STREAMS
    }
    return {"tokens_per_s": medians, "ratios": ratios, "rounds": speeds}


def measured() -> dict[str, Any]:
    """Measure every model; the progress goes to standard error."""
    began, load_before, models = time.monotonic(), os.getloadavg()[0], {}
    for name, (spec, loop) in MODELS.items():
        print(f"{name}: {spec.summary}", file=sys.stderr, flush=True)
        models[name] = {"model": spec.summary, **asyncio.run(_measured(spec, loop()))}
        print(f"  × {models[name]['ratios']}", file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - began)
    return {"seconds": seconds, "load_before": round(load_before, 1), "models": models}


if __name__ == "__main__":
    print(json.dumps(measured()))
