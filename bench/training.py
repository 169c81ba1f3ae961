"""Training throughput in characters per second: the LSTMs of Keras, PyTorch and Carousel.

`python -m bench.training` prints the figures. Each contender is a process; their steps alternate,
so that other load on the machine affects all of them. All train without dropout.
"""

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.contender import Contender, compete
from bench.progress import Progress

VOCABULARY, EMBEDDING_DIM, STREAMS, CHARACTERS = 65, 256, 64, 100
MODELS = ((1, 1024), (2, 512))
CONTENDERS = ("keras", "torch", "torch, ours allocator", "float32", "bfloat16")
ROUNDS, STEPS = 12, 1
EXPECTED_S = 300.0
TORCH_PYTHON = "CAROUSEL_BENCH_TORCH"
"""The variable with the path of a Python that has PyTorch 2.13, if it is not this one."""

Chunk = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def measured() -> dict[str, Any]:
    """Measure each model by each contender: the best and the median of the rounds."""
    from bench.machine import machine  # noqa: PLC0415 (PyTorch's Python may have no psutil)

    about, progress = machine(), Progress("training", len(MODELS) * ROUNDS, EXPECTED_S)
    speeds: dict[str, dict[str, Any]] = {}
    for layers, units in MODELS:
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        with contextlib.ExitStack() as stack:
            contenders = {
                name: stack.enter_context(_contender(name, layers, units)) for name in CONTENDERS
            }
            for _ in range(ROUNDS):
                for name, contender in contenders.items():
                    rounds[name].append(contender.measure())
                progress.done(f"{layers} × {units}")
        speeds[f"{layers} × {units}"] = {
            name: {
                "best": round(max(each["characters_per_s"] for each in found)),
                "median": round(statistics.median(each["characters_per_s"] for each in found)),
                "cpu_us": round(statistics.median(each["cpu_us"] for each in found), 1),
            }
            for name, found in rounds.items()
        }
    return {
        "machine": about,
        "lanes": STREAMS,
        "characters": CHARACTERS,
        "characters_per_s": speeds,
    }


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table; × is relative to PyTorch as it is installed."""
    from bench.machine import caption  # noqa: PLC0415 (likewise)

    setting = f"Batch {result['lanes']} × {result['characters']}, embedding {EMBEDDING_DIM}"
    lines = [
        f"{setting}; {caption(result['machine'])}",
        "",
        "| model | contender | best | median | × | µs of processor time a character |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for model, contenders in result["characters_per_s"].items():
        one = contenders["torch"]["best"]
        lines += [
            f"| {model} | {_TITLES[name]} | {speed['best']:,} | {speed['median']:,} "
            f"| {speed['best'] / one:.2f} | {speed['cpu_us']} |"
            for name, speed in contenders.items()
        ]
    return "\n".join(lines)


_TITLES = {
    "keras": "`keras.layers.LSTM`, `fit`",
    "torch": "PyTorch `nn.LSTM`, float32",
    "torch, ours allocator": "the same, with Carousel's allocator settings",
    "float32": "Carousel, float32",
    "bfloat16": "Carousel, bfloat16",
}


def _contender(name: str, layers: int, units: int) -> Contender:
    from service.training.config import ALLOCATOR_ENVIRONMENT  # noqa: PLC0415 (not for PyTorch's)

    kind = name.partition(",")[0]
    python = os.environ.get(TORCH_PYTHON, sys.executable) if kind == "torch" else sys.executable
    environment = {} if name in {"torch", "keras"} else ALLOCATOR_ENVIRONMENT
    return Contender("training", kind, str(layers), str(units), python=python, **environment)


def _compete(learn: Callable[[Chunk], None]) -> None:
    """Train on two chunks to warm up, then measure `STEPS` steps for each line that is read."""
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(STREAMS, CHARACTERS + 1))
    chunk = tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32)
    learn(chunk)
    learn(chunk)

    def measure(_: Sequence[str]) -> dict[str, float]:
        began_s, used_s = time.perf_counter(), time.process_time()
        for _step in range(STEPS):
            learn(chunk)
        n = STEPS * STREAMS * CHARACTERS
        elapsed_s, used_s = time.perf_counter() - began_s, time.process_time() - used_s
        return {"characters_per_s": n / elapsed_s, "cpu_us": 1e6 * used_s / n}

    compete(measure)


def _keras(layers: int, units: int) -> Callable[[Chunk], None]:
    import keras  # noqa: PLC0415

    model = keras.Sequential([keras.layers.Embedding(VOCABULARY, EMBEDDING_DIM)])
    for _ in range(layers):
        model.add(keras.layers.LSTM(units, return_sequences=True))
    model.add(keras.layers.Dense(VOCABULARY))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-3, global_clipnorm=1.0), loss)

    def learn(chunk: Chunk) -> None:
        model.fit(*chunk, batch_size=STREAMS, epochs=1, shuffle=False, verbose=0)

    return learn


def _torch(layers: int, units: int) -> Callable[[Chunk], None]:
    import torch  # noqa: PLC0415

    embedding = torch.nn.Embedding(VOCABULARY, EMBEDDING_DIM)
    lstm = torch.nn.LSTM(EMBEDDING_DIM, units, layers)
    dense = torch.nn.Linear(units, VOCABULARY)
    parameters = [*embedding.parameters(), *lstm.parameters(), *dense.parameters()]
    optimizer = torch.optim.AdamW(parameters, 1e-3)
    cross_entropy = torch.nn.CrossEntropyLoss()

    def learn(chunk: Chunk) -> None:
        inputs, targets = (torch.from_numpy(part).T.long() for part in chunk)
        outputs, _ = lstm(embedding(inputs))
        loss = cross_entropy(dense(outputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        loss.item()

    return learn


def _ours(precision: str, layers: int, units: int) -> Callable[[Chunk], None]:
    from service.models.initializers import initial_weights  # noqa: PLC0415
    from service.training import corpus, recipe  # noqa: PLC0415
    from service.training.train_step import TrainStep  # noqa: PLC0415

    architecture = recipe.Architecture("lstm", EMBEDDING_DIM, units, layers, dropout=0.0)
    schedule = recipe.Hyperparameters(embedding_dropout=0.0, recurrent_weight_drop=0.0)
    spec = architecture.spec(VOCABULARY)
    weights = initial_weights(spec, 0)
    learner = TrainStep(spec, recipe.Recipe(architecture, schedule), 10_000, weights, precision)

    def learn(chunk: Chunk) -> None:
        learner.learn(corpus.BPTTChunk(*chunk), is_first=False)

    return learn


def main() -> None:
    """Measure all contenders, or run as one of them."""
    if len(sys.argv) == 1:
        print(json.dumps(measured()))
        return
    kind, layers, units = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if kind == "keras":
        _compete(_keras(layers, units))
    elif kind == "torch":
        _compete(_torch(layers, units))
    else:
        _compete(_ours(kind, layers, units))


if __name__ == "__main__":
    main()
