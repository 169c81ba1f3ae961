"""Serving against the generation loops of well-known tutorials, as people run them.

`python -m bench.wild` prints the figures. Loop and engine alternate, so that other load on the
machine affects both. A token is a character, or a word for the next-word model. The weights are
random, since speed does not depend on them. A last part compares the engine with the network's
step alone at a vocabulary of 20,000 words.
"""

import asyncio
import json
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.decode import InProcess
from bench.machine import caption, machine, paired_ratio
from bench.progress import Progress
from bench.seed_model import SPEC
from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.spec import ModelSpec, Weights
from service.models.window import Padding, Window

if TYPE_CHECKING:
    from bench import wild_loops

ROUNDS, WINDOWED_TOKENS, CARRIED_TOKENS = 5, 48, 512
EXPECTED_S = 90.0
MODELS: dict[str, tuple[ModelSpec, str]] = {
    "[Keras's example](https://keras.io/examples/generative/"
    "lstm_character_level_text_generation/): "
    "`predict` on 40 one-hot characters, LSTM(128)": (
        ModelSpec(57, None, (LayerSpec("lstm", 128),), window=Window(40, Padding.NONE)),
        "one_hot",
    ),
    "[the next-word recipe](https://machinelearningmastery.com/"
    "how-to-develop-a-word-level-neural-language-model-keras/): "
    "`pad_sequences` and `predict`, LSTM(150)": (
        ModelSpec(3_000, 100, (LayerSpec("lstm", 150),), window=Window(15, Padding.LEFT, 0)),
        "next_word",
    ),
    "[TensorFlow's tutorial](https://www.tensorflow.org/text/tutorials/text_generation): "
    "`@tf.function`, GRU(1024)": (
        ModelSpec(66, 256, (LayerSpec("gru", 1024),)),
        "one_step",
    ),
    "[the article](docs/glossary.md): eager, LSTM(1024)": (SPEC, "article"),
}
WIDE_MODELS = (
    ModelSpec(20_000, 256, (LayerSpec("gru", 1024),)),
    ModelSpec(20_000, 100, (LayerSpec("lstm", 150),)),
)
WIDE_ROWS, WIDE_TOKENS = 64, 256
STREAMS = (1, 16)


def random_weights(spec: ModelSpec) -> Weights:
    """Return Glorot-uniform kernels."""
    rng, arrays = np.random.default_rng(2015), {}
    for name, shape in spec.weight_shapes.items():
        limit = np.sqrt(6.0 / sum(shape)) if len(shape) > 1 else 0.0
        arrays[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
    return Weights(spec, arrays)


def _prompt(spec: ModelSpec) -> tuple[int, ...]:
    return tuple(1 + i % 50 for i in range(spec.window.length if spec.window else 6))


async def _measured(spec: ModelSpec, loop: "wild_loops.Loop") -> dict[str, Any]:
    served = InProcess(
        spec, random_weights(spec), Precision.FLOAT32 if spec.window else Precision.INT8
    )
    served.engine.start()
    tokens, prompt = WINDOWED_TOKENS if spec.window else CARRIED_TOKENS, _prompt(spec)
    await served.engine_tokens_per_s(1, prompt, tokens, 0)
    loop.run(5)
    names = ("author", *map(str, STREAMS))
    speeds: dict[str, list[float]] = {name: [] for name in names}
    costs: dict[str, list[float]] = {name: [] for name in names}

    def note(name: str, rate: float, began_s: float, used_s: float) -> None:
        speeds[name].append(rate)
        elapsed_s = time.perf_counter() - began_s
        costs[name].append(1e6 * (time.process_time() - used_s) / (rate * elapsed_s))

    for _ in range(ROUNDS):
        began_s, used_s = time.perf_counter(), time.process_time()
        loop.run(loop.tokens)
        note("author", loop.tokens / (time.perf_counter() - began_s), began_s, used_s)
        for streams in STREAMS:
            began_s, used_s = time.perf_counter(), time.process_time()
            rate = await served.engine_tokens_per_s(streams, prompt, tokens, 0)
            note(str(streams), rate, began_s, used_s)
    served.engine.close()
    return {
        "code_path": served.code_path,
        "tokens_per_s": {name: statistics.median(each) for name, each in speeds.items()},
        "cpu_us": {name: statistics.median(each) for name, each in costs.items()},
        "ratios": {str(n): paired_ratio(speeds[str(n)], speeds["author"]) for n in STREAMS},
        "rounds": speeds,
    }


async def _wide(spec: ModelSpec) -> dict[str, Any]:
    """Compare the engine at a full batch with the network's step alone."""
    served = InProcess(spec, random_weights(spec), Precision.INT8)
    prompt = _prompt(spec)
    served.engine.start()
    await served.engine_tokens_per_s(WIDE_ROWS, prompt, WIDE_TOKENS, 0)
    step, engine = [], []
    for _ in range(ROUNDS):
        step.append(served.step_tokens_per_s(WIDE_ROWS))
        engine.append(await served.engine_tokens_per_s(WIDE_ROWS, prompt, WIDE_TOKENS, 0))
    served.engine.close()
    medians = {"step": statistics.median(step), "engine": statistics.median(engine)}
    return {"tokens_per_s": medians, "ratio": paired_ratio(engine, step)}


def measured() -> dict[str, Any]:
    """Measure every model; the progress goes to standard error."""
    from bench import wild_loops  # noqa: PLC0415 (TensorFlow, which the table does not need)

    about = machine()
    progress = Progress("wild", len(MODELS) + len(WIDE_MODELS), EXPECTED_S)
    models, wide = {}, {}
    for name, (spec, loop) in MODELS.items():
        figures = asyncio.run(_measured(spec, getattr(wild_loops, loop)()))
        models[name] = {"model": spec.summary, **figures}
        shown = ", ".join(f"{n} streams × {x:.0f}" for n, x in figures["ratios"].items())
        progress.done(f"{loop}, {spec.summary}: {shown}")
    for spec in WIDE_MODELS:
        wide[spec.summary] = asyncio.run(_wide(spec))
        progress.done(f"{WIDE_ROWS} rows of {spec.summary}: × {wide[spec.summary]['ratio']:.2f}")
    return {"machine": about, "models": models, "wide": wide}


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table; × is relative to the author's loop."""
    heads = "tokens per second | its loop | Carousel, 1 stream | 16 streams"
    heads += " | µs of processor time a token: its loop · 16 streams"
    lines = [
        caption(result["machine"]),
        "",
        f"| {heads} |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, one in result["models"].items():
        speeds, ratios, costs = one["tokens_per_s"], one["ratios"], one["cpu_us"]
        served = " | ".join(f"{speeds[str(n)]:,.0f} = **{ratios[str(n)]:.0f} ×**" for n in STREAMS)
        lines.append(
            f"| {name} | {speeds['author']:,.0f} | {served} "
            f"| {costs['author']:,.0f} · {costs['16']:,.0f} |"
        )
    return "\n".join(lines)


def wide_table(result: dict[str, Any]) -> str:
    """Return the comparison of the engine with the network's step alone, for 20,000 words."""
    lines = ["| 64 rows | the step alone | engine | × |", "|---|--:|--:|--:|"]
    for name, one in result["wide"].items():
        step, engine = one["tokens_per_s"]["step"], one["tokens_per_s"]["engine"]
        lines.append(f"| {name} | {step:,.0f} | {engine:,.0f} | {one['ratio']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(measured()))
