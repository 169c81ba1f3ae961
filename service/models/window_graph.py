"""Builds the ONNX graph of a window: the tokens of all its steps in, the logits after it out.

The products with the inputs of all steps of all rows are one product; a recurrent layer is then a
Scan over the steps, whose body is the cell's step.
"""

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto, helper

from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.cells import CELLS
from service.models.graph import NetworkGraph
from service.models.spec import FOLD_LIMIT_BYTES, FloatArray, ModelSpec, Weights


def build_window_graph(
    spec: ModelSpec,
    weights: Weights,
    precision: Precision,
    weight_bits: int,
    fold_limit_bytes: int = FOLD_LIMIT_BYTES,
) -> bytes:
    """Serialise the window of a model.

    Inputs: `tokens` (steps, rows) int64, where `vocabulary_size` is the input 0, and the states
    before the first step, `start_0`, `start_1`, … (rows, units) float32, in the order of
    `ModelSpec.layer_state_units`. Outputs: `logits` (rows, vocabulary) float32 and the states after
    the last step, `end_0`, …; of a layer that goes backwards, after the window's first.
    """
    graph = _WindowGraph(spec, weights, precision, weight_bits, fold_limit_bytes)
    return bytes(graph.build().SerializeToString())


class _WindowGraph(NetworkGraph):
    """The graph of a window. Values are (steps, rows, width)."""

    has_window = True

    def add_recurrent(self, layer: LayerSpec, weights: Mapping[str, FloatArray], xw: str) -> str:
        """Add a Scan over the steps."""
        cell, info, scope = CELLS[layer.cell], helper.make_tensor_value_info, self._scope
        rows: list[str | int | None] = ["rows", layer.units]
        first = len(self._inputs) - 1
        before = [f"{scope}before_{i}" for i in range(len(cell.states))]
        inputs = [info(name, TensorProto.FLOAT, rows) for name in before]
        scanned = [f"{scope}x"]
        inputs.append(info(scanned[0], TensorProto.FLOAT, ["rows", None]))
        if self._mask:
            scanned.append(f"{scope}is_kept")
            inputs.append(info(scanned[1], TensorProto.BOOL, ["rows", 1]))
        outer, self._nodes = self._nodes, []
        after = cell.add_step(self, layer, weights, scanned[0], before)
        if self._mask:
            pairs = zip(before, after, strict=True)
            after = [self.node("Where", scanned[1], kept, new) for kept, new in pairs]
        h = self.node("Identity", after[0])
        outputs = [info(name, TensorProto.FLOAT, rows) for name in [*after, h]]
        body = helper.make_graph(self._nodes, f"{scope}step", inputs, outputs)
        self._nodes = outer
        starts = [f"start_{first + i}" for i in range(len(after))]
        ends = [f"end_{first + i}" for i in range(len(after))]
        self._inputs += [info(name, TensorProto.FLOAT, rows) for name in starts]
        self._outputs += [info(name, TensorProto.FLOAT, rows) for name in ends]
        sources = [xw, self._mask] if self._mask else [xw]
        hs = f"{scope}hs"
        self._nodes.append(
            helper.make_node(
                "Scan",
                [*starts, *sources],
                [*ends, hs],
                body=body,
                num_scan_inputs=len(sources),
                scan_input_directions=[int(layer.go_backwards)] * len(sources),
                scan_output_directions=[int(layer.go_backwards)],
            )
        )
        return hs

    def last_step(self, x: str) -> str:
        """Select the last step."""
        return self.node("Gather", x, self._constant("last", np.array(-1)), axis=0)
