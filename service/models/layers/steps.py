"""The layers that reduce the steps of a window to one value."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from service.models.cell import Arrays, Parts, Shape
from service.models.layers.layer import Layer, LayerGraph, Values


class StepOf(StrEnum):
    """Which step of a window."""

    FIRST = "first"  # the end of a recurrent layer that goes backwards
    LAST = "last"


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectStep(Layer):
    """One step of a window: (steps, width) → (width,). Keras: return_sequences=False."""

    kind = "select_step"
    reduces_steps = True
    step: StepOf = StepOf.LAST

    @property
    def summary(self) -> str:
        """Which step."""
        return f"{self.step.capitalize()}Step"

    def compute(self, weights: Parts, inputs: Sequence[Values]) -> Values:  # noqa: ARG002
        """Return the step."""
        step: Values = inputs[0][0 if self.step is StepOf.FIRST else -1]
        return step

    def add_to(self, graph: LayerGraph, weights: Arrays, inputs: Sequence[str]) -> str:  # noqa: ARG002
        """Add a gather; in a graph of one step there is nothing to select."""
        if not graph.has_window:
            return inputs[0]
        step = graph.constant("step", np.array(0 if self.step is StepOf.FIRST else -1))
        return graph.node("Gather", inputs[0], step, axis=0)


@dataclass(frozen=True, slots=True)
class Flatten(Layer):
    """All steps of a window in one row: (steps, width) → (steps * width,)."""

    kind = "flatten"
    reduces_steps = True
    reads_whole_window = True

    @property
    def summary(self) -> str:
        """Its Keras name."""
        return "Flatten"

    def width(self, widths: Sequence[int], steps: int) -> int:
        """The width of all steps together."""
        return steps * widths[0]

    def compute(self, weights: Parts, inputs: Sequence[Values]) -> Values:  # noqa: ARG002
        """Put the steps side by side."""
        steps_last = np.moveaxis(inputs[0], 0, -2)
        return steps_last.reshape(*steps_last.shape[:-2], -1)

    def add_to(self, graph: LayerGraph, weights: Arrays, inputs: Sequence[str]) -> str:  # noqa: ARG002
        """Add a transposition and a new shape."""
        by_row = graph.node("Transpose", inputs[0], perm=(1, 0, 2))
        return graph.node("Flatten", by_row, axis=1)


@dataclass(frozen=True, slots=True)
class AttentionAverage(Layer):
    """The attention-weighted average of a window's steps: (steps, width) → (width,).

    s_t = x_t · w, a = exp(s - max s) / (Σ exp(s - max s) + 1e-7), y = Σ a_t x_t, the pads counted.
    Weights: kernel (width, 1). Source: textgenrnn, `AttentionWeightedAverage`.
    """

    kind = "attention_average"
    reduces_steps = True
    reads_whole_window = True

    @property
    def summary(self) -> str:
        """Its name."""
        return "AttentionAverage"

    def weight_shapes(self, width: int) -> dict[str, Shape]:
        """The kernel."""
        return {"kernel": (width, 1)}

    def compute(self, weights: Parts, inputs: Sequence[Values]) -> Values:
        """Compute the average."""
        (x,) = inputs
        scores = x @ weights["kernel"]
        shares = np.exp(scores - scores.max(axis=0))
        average: Values = (shares / (shares.sum(axis=0) + 1e-7) * x).sum(axis=0)
        return average

    def add_to(self, graph: LayerGraph, weights: Arrays, inputs: Sequence[str]) -> str:
        """Add the nodes.

        Sums are products of matrices, whose bits, unlike those of ReduceSum, do not depend on
        where a row is in memory.
        """
        (x,) = inputs  # (steps, rows, width)
        kernel = np.pad(weights["kernel"], ((0, 0), (0, 15)))  # a product with one column, too
        columns = graph.project(x, "kernel", kernel, None)
        first = graph.constant("first", np.array([0]))
        scores = graph.node("Gather", columns, first, axis=2)  # (steps, rows, 1)
        largest = graph.node("ReduceMax", scores, first)
        shares = graph.node("Exp", graph.node("Sub", scores, largest))
        ones = graph.node("Exp", graph.node("Sub", scores, scores))
        terms = graph.node("Transpose", graph.node("Concat", x, ones, axis=2), perm=(1, 0, 2))
        sums = graph.node("MatMul", graph.node("Transpose", shares, perm=(1, 2, 0)), terms)
        sums = graph.node("Squeeze", sums, graph.constant("middle", np.array([1])))
        width = len(weights["kernel"])  # of x; then comes the sum of the shares
        average = graph.node("Gather", sums, graph.constant("x", np.arange(width)), axis=1)
        total = graph.node("Gather", sums, graph.constant("ones", np.array([width])), axis=1)
        floor = graph.constant("floor", np.array([1e-7]))
        return graph.node("Div", average, graph.node("Add", total, floor))
