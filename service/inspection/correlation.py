"""Correlations of cells with a property, on one part of a text and on a later part."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.errors import Validation
from service.models.spec import FloatArray

GAP = 500
"""Tokens that are left out at the begin and between the two parts."""

LEAST_TOKENS = 5_000
LEAST_ROTATION = 1_000
LEAST_CHANGES = 30
"""A binary property has to change so many times in each part."""

LEAST_DEVIATION = 0.02
"""A cell that deviates less is left out: its correlation is one of rounding errors."""

_CONSTANT = 1e-9

Sums = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HeldOutSplit:
    """The part that cells are chosen on, and the later part that they are judged on."""

    chosen_on: slice
    held_out: slice

    @classmethod
    def of(cls, n_tokens: int, share: float) -> "HeldOutSplit":
        """Split a text by order. Raises Validation if it is too short."""
        if n_tokens < LEAST_TOKENS:
            raise Validation(
                f"the text has {n_tokens} tokens; a find needs at least {LEAST_TOKENS}, of which a "
                "part is held out"
            )
        first = n_tokens - int(share * (n_tokens - 2 * GAP))
        return cls(slice(GAP, first - GAP), slice(first, n_tokens))


def check_changes(name: str, values: Sums, split: HeldOutSplit) -> None:
    """Raise Validation if a binary property changes too rarely to be judged."""
    for part, where in ((split.chosen_on, "chosen on"), (split.held_out, "held out")):
        n = int((np.diff(values[part]) != 0).sum())
        if n < LEAST_CHANGES:
            raise Validation(
                f"{name} changes {n} times in the part of the text that is {where}; a find needs "
                f"at least {LEAST_CHANGES}: give a longer text"
            )


def standardised(values: npt.NDArray[np.floating]) -> FloatArray:
    """Return columns with mean 0 and mean square 1; a constant one is 0."""
    centred = values - values.mean(axis=0, dtype=np.float64)
    deviation = np.sqrt((centred.astype(np.float64) ** 2).mean(axis=0))
    scaled = centred / np.where(deviation > 0, deviation, 1.0)
    return np.where(deviation > 0, scaled, 0.0).astype(np.float32)


def correlations(cells: FloatArray, labels: npt.NDArray[np.floating]) -> Sums:
    """Return r of each column of `cells`, standardised already, with each of `labels`."""
    return (cells.T @ standardised(labels)).astype(np.float64) / len(cells)


def pearson(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> float:
    """Return r of two lists of numbers; 0 where one of them is constant."""
    of_x, of_y = x.astype(np.float64), y.astype(np.float64)
    of_x, of_y = of_x - of_x.mean(), of_y - of_y.mean()
    scale = float(np.sqrt((of_x**2).sum() * (of_y**2).sum()))
    is_constant = min(np.sqrt((of_x**2).mean()), np.sqrt((of_y**2).mean())) < _CONSTANT
    return 0.0 if is_constant else float((of_x * of_y).sum()) / scale


def greatest_by_chance(cells: FloatArray, label: Sums, n_rotations: int, seed: int) -> float:
    """Return the 95th percentile of the greatest |r| of all cells with the label rotated.

    A rotation keeps how slowly the label changes, which rules what chance can do.
    """
    n, random = len(label), np.random.default_rng(seed)
    offsets = random.integers(LEAST_ROTATION, n - LEAST_ROTATION, n_rotations)
    greatest = []
    for first in range(0, n_rotations, 20):
        rotated = [np.roll(label, offset) for offset in offsets[first : first + 20]]
        found = np.abs(correlations(cells, np.stack(rotated, axis=1)))
        greatest += found.max(axis=0).tolist()
    return float(np.percentile(greatest, 95))


def character_means(tokens: npt.NDArray[np.int64], values: Sums, size: int) -> Sums:
    """Return the mean of `values` (tokens, columns) by token; that of all where there is none."""
    counts: npt.NDArray[np.int64] = np.bincount(tokens, minlength=size).reshape(-1, 1)
    sums = np.stack(
        [np.bincount(tokens, weights=column, minlength=size) for column in values.T], axis=1
    )
    found: Sums = np.where(counts > 0, sums / np.maximum(counts, 1), values.mean(axis=0))
    return found


def beyond_character(tokens: npt.NDArray[np.int64], cell: FloatArray, label: Sums) -> float:
    """Return r of what is left of both after the mean for the current token is taken away."""
    both = np.stack([cell.astype(np.float64), label], axis=1)
    rest: Sums = both - character_means(tokens, both, int(tokens.max()) + 1)[tokens]
    return pearson(rest[:, 0], rest[:, 1])


def by_character(tokens: npt.NDArray[np.int64], label: Sums, split: HeldOutSplit) -> float:
    """Return |r|, held out, of the label with its mean for the current token."""
    means = character_means(
        tokens[split.chosen_on], label[split.chosen_on, None], int(tokens.max()) + 1
    )
    guess, target = means[:, 0][tokens[split.held_out]], label[split.held_out]
    return abs(pearson(guess, target))


def auc(scores: npt.NDArray[np.floating], label: Sums) -> float:
    """Return how likely a token with the property has a higher score than one without."""
    order = np.argsort(scores, kind="stable")
    _, first, counts = np.unique(scores[order], return_index=True, return_counts=True)
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat(first + (counts + 1) / 2, counts)
    n_with = float(label.sum())
    n_without = len(label) - n_with
    return float((ranks[label > 0].sum() - n_with * (n_with + 1) / 2) / (n_with * n_without))


def best_threshold(scores: npt.NDArray[np.floating], label: Sums) -> float:
    """Return the threshold of the best F1; a token is said to have the property above it."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(label[order])
    measure = 2 * hits / (np.arange(1, len(scores) + 1) + label.sum())
    measure[:-1][ranked[:-1] == ranked[1:]] = 0.0  # a threshold is between two scores
    best = int(np.argmax(measure[:-1]))
    return float((ranked[best] + ranked[best + 1]) / 2)


def f1(said: npt.NDArray[np.bool_], label: Sums) -> tuple[float, float, float]:
    """Return precision, recall and their harmonic mean."""
    hits = float((said & (label > 0)).sum())
    precision, recall = hits / max(1, said.sum()), hits / max(1.0, float(label.sum()))
    return precision, recall, 2 * hits / max(1.0, float(said.sum()) + float(label.sum()))


def pursuit(cells: FloatArray, label: Sums, columns: list[int], most: int) -> list[int]:
    """Choose cells one by one, each the best for what the others leave (matching pursuit)."""
    target = standardised(label[:, None])[:, 0].astype(np.float64)
    chosen: list[int] = []
    residual = target
    while len(chosen) < min(most, len(columns)):
        scores = np.abs(cells[:, columns].T @ residual.astype(np.float32))
        for column in chosen:
            scores[columns.index(column)] = -1.0
        chosen.append(columns[int(np.argmax(scores))])
        residual = target - cells[:, chosen] @ _least_squares(cells[:, chosen], target)
    return chosen


def fitted(cells: FloatArray, label: Sums, others: FloatArray) -> Sums:
    """Fit a label by least squares on some cells, and return what it says of others."""
    weights = _least_squares(np.hstack([cells, np.ones((len(cells), 1))]), label)
    return np.asarray(np.hstack([others, np.ones((len(others), 1))]) @ weights, np.float64)


def _least_squares(columns: npt.NDArray[np.floating], target: Sums) -> Sums:
    """Solve the normal equations; columns that depend on each other share their weight."""
    wide = columns.astype(np.float64)
    return np.asarray(np.linalg.pinv(wide.T @ wide, hermitian=True) @ (wide.T @ target))
