"""The layer that makes one value of several."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce

import numpy as np

from service.errors import BadCheckpoint
from service.models.cell import Arrays, Parts
from service.models.layers.layer import Layer, LayerGraph, Values


class MergeMode(StrEnum):
    """How several inputs of the same shape, or with CONCATENATE of any width, become one."""

    CONCATENATE = "concatenate"
    ADD = "add"
    MULTIPLY = "multiply"
    AVERAGE = "average"


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge(Layer):
    """The inputs, two or more, as one."""

    kind = "merge"
    n_inputs = 2
    mode: MergeMode

    @property
    def summary(self) -> str:
        """Mode and inputs."""
        return f"{self.mode.capitalize()}({', '.join(map(str, self.inputs))})"

    def width(self, widths: Sequence[int], steps: int) -> int:  # noqa: ARG002
        """The sum of the widths, or their common value. Raises BadCheckpoint if there is none."""
        if self.mode is MergeMode.CONCATENATE:
            return sum(widths)
        if len(set(widths)) > 1:
            raise BadCheckpoint(
                f"a layer that merges by {self.mode} reads widths {', '.join(map(str, widths))}; "
                "they must be the same"
            )
        return widths[0]

    def compute(self, weights: Parts, inputs: Sequence[Values]) -> Values:  # noqa: ARG002
        """Merge the inputs."""
        if self.mode is MergeMode.CONCATENATE:
            return np.concatenate(inputs, axis=-1)
        if self.mode is MergeMode.MULTIPLY:
            return reduce(np.multiply, inputs)
        total = reduce(np.add, inputs)
        return total / len(inputs) if self.mode is MergeMode.AVERAGE else total

    def add_to(self, graph: LayerGraph, weights: Arrays, inputs: Sequence[str]) -> str:  # noqa: ARG002
        """Add one node for each two inputs, or one concatenation."""
        if self.mode is MergeMode.CONCATENATE:
            return graph.node("Concat", *inputs, axis=-1)
        operator = "Mul" if self.mode is MergeMode.MULTIPLY else "Add"
        merged = reduce(lambda a, b: graph.node(operator, a, b), inputs)
        if self.mode is MergeMode.AVERAGE:
            n = graph.constant("inputs", np.array([len(inputs)], np.float32))
            merged = graph.node("Div", merged, n)
        return merged
