"""The comparison of a windowed model with its reference, and with the same model carried."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from service.errors import BadCheckpoint
from service.models.bundle import WindowRecord
from service.models.reference import ReferenceModel
from service.models.spec import FloatArray, ModelSpec, Weights
from service.models.step import Batch, StepProgram, WindowedProgram
from service.models.window import Padding, Window, windows_of

ROWS = 16
MAX_TOKENS, MIN_TOKENS = 2_000, 128
PRODUCTS = 40_000_000_000
"""Products that a comparison with the carried state may take, if it takes more than MIN_TOKENS."""

MIN_WINDOWS, REFERENCE_PRODUCTS = 12, 5_000_000_000

Tokens = npt.NDArray[np.int64]
Logs = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WindowText:
    """Texts of a model, (rows, length), and the window's log-probabilities of their tokens.

    `nats` is the mean over the tokens after the first `context` of each; `most_likely` is
    (rows, length - context).
    """

    texts: Tokens
    context: int
    nats: float
    most_likely: Tokens


def compared_logits(
    program: StepProgram, spec: ModelSpec, weights: Weights, tokens: Tokens
) -> tuple[FloatArray, Logs]:
    """Return the logits of the program and of the reference after some windows of random tokens.

    The windows hold few tokens, all, and any number between.
    """
    assert isinstance(program, WindowedProgram)
    n = program.window.length
    is_full = program.window.padding is Padding.NONE
    length = n + len(tokens)
    text = np.resize(tokens, length)
    n_windows = affordable(spec, REFERENCE_PRODUCTS, MIN_WINDOWS, len(tokens))
    first = n - 1 if is_full else 0
    windows = windows_of(text, n, keeps_first=program.window.keeps_first)
    ends = np.unique(np.linspace(first, length - 1, n_windows).astype(int))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = ReferenceModel(spec, weights).read(windows[ends])
    batch, logits = program.new_batch(ROWS), []
    for part in np.split(ends, range(ROWS, len(ends), ROWS)):
        for row, end in enumerate(part):
            batch.put(row, program.prefill(None, text[: end + 1].tolist()))
            batch.tokens[row] = text[end]
        program.step(batch, len(part))
        logits.append(batch.logits[: len(part)].copy())
    return np.concatenate(logits), expected


def sampled(
    program: StepProgram, spec: ModelSpec, rng: np.random.Generator, special_ids: Sequence[int]
) -> WindowText:
    """Sample texts at temperature 1, each after the fewest random tokens that the loop takes."""
    assert isinstance(program, WindowedProgram)
    n_new = -(-affordable(spec, PRODUCTS, MIN_TOKENS, MAX_TOKENS) // ROWS)
    allowed = np.setdiff1d(np.arange(spec.vocabulary_size), special_ids)
    context = _context(program.window)
    texts = np.zeros((ROWS, context + n_new), np.int64)
    texts[:, :context] = rng.choice(allowed, (ROWS, context))
    return _read(program, texts, context, special_ids, rng)


def given(
    program: StepProgram, spec: ModelSpec, text: Sequence[int], special_ids: Sequence[int]
) -> WindowText | None:
    """Read pieces of a text, evenly spaced; None if it is too short."""
    assert isinstance(program, WindowedProgram)
    context = _context(program.window)
    n_new = -(-affordable(spec, PRODUCTS, MIN_TOKENS, MAX_TOKENS) // ROWS)
    length = min(len(text), context + n_new)
    if length <= context:
        return None
    starts = np.linspace(0, len(text) - length, ROWS).astype(int)
    texts = np.stack([np.asarray(text[start : start + length]) for start in starts])
    return _read(program, texts, context, special_ids, None)


def compare_with_carried(
    carried: StepProgram, read: WindowText, special_ids: Sequence[int]
) -> WindowRecord:
    """Compare a window's text with the same network whose state is carried."""
    batch, total, same = carried.new_batch(ROWS), 0.0, 0
    n_new = read.texts.shape[1] - read.context
    for t in range(read.texts.shape[1] - 1):
        batch.tokens[:ROWS] = read.texts[:, t]
        carried.step(batch, ROWS)
        if t + 1 >= read.context:
            logs = log_probabilities(batch.logits, special_ids)
            total -= float(logs[np.arange(ROWS), read.texts[:, t + 1]].sum())
            same += int((logs.argmax(axis=1) == read.most_likely[:, t + 1 - read.context]).sum())
    return WindowRecord(
        tokens=ROWS * n_new,
        nats_window=read.nats,
        nats_carried=total / (ROWS * n_new) if np.isfinite(total) else None,
        same_next_token=same / (ROWS * n_new),
    )


def carried_spec(spec: ModelSpec) -> ModelSpec | None:
    """Return the same network with carried state; None if a layer reads a whole window."""
    try:
        return replace(spec, window=None)
    except BadCheckpoint:
        return None


def log_probabilities(logits: FloatArray, special_ids: Sequence[int]) -> Logs:
    """Compute the log-softmax of rows, (rows, vocabulary), without special ids."""
    scores = logits.astype(np.float64)
    scores[:, list(special_ids)] = -np.inf
    scores -= scores.max(axis=1, keepdims=True)
    logs: Logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return logs


def _context(window: Window) -> int:
    """Tokens that a generation begins with: the author's loop of some windows fills them."""
    return window.length if window.padding is Padding.NONE or window.is_sliding else 1


def affordable(spec: ModelSpec, products: int, least: int, most: int) -> int:
    """Return how many predictions the products suffice for, within limits."""
    shapes = spec.weight_shapes
    kernels = [shape for name, shape in shapes.items() if name.startswith("layers.")]
    by_step = sum(int(np.prod(shape)) for shape in kernels[1:]) + 1  # the first is a table
    steps = 1 if spec.window is None else spec.window.length
    by_prediction = steps * by_step + int(np.prod(shapes["output.kernel"]))
    return max(least, min(most, products // by_prediction))


def _read(
    program: WindowedProgram,
    texts: Tokens,
    context: int,
    special_ids: Sequence[int],
    rng: np.random.Generator | None,
) -> WindowText:
    """Read texts, or with `rng` write them: what comes after their first `context` tokens."""
    batch: Batch = program.new_batch(ROWS)
    rows, total = np.arange(ROWS), 0.0
    most_likely = np.empty((ROWS, texts.shape[1] - context), np.int64)
    for row, text in enumerate(texts):
        batch.put(row, program.prefill(None, text[:context].tolist()))
    for t in range(context, texts.shape[1]):
        batch.tokens[:ROWS] = texts[:, t - 1]
        program.step(batch, ROWS)
        logs = log_probabilities(batch.logits, special_ids)
        if rng is not None:
            cumulative = np.exp(logs).cumsum(axis=1)
            drawn = rng.random((ROWS, 1)) * cumulative[:, -1:]
            texts[:, t] = np.minimum((cumulative <= drawn).sum(axis=1), logs.shape[1] - 1)
        total -= float(logs[rows, texts[:, t]].sum())
        most_likely[:, t - context] = logs.argmax(axis=1)
    return WindowText(texts, context, total / most_likely.size, most_likely)
