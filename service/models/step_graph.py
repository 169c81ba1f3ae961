"""The ONNX graph of one step of a model whose state is carried."""

from collections.abc import Mapping

from onnx import ModelProto, TensorProto, helper

from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.cells import CELLS
from service.models.graph import NetworkGraph
from service.models.spec import FOLD_LIMIT_BYTES, FloatArray, ModelSpec, Weights


def build_graph(
    spec: ModelSpec,
    weights: Weights,
    precision: Precision,
    weight_bits: int,
    fold_limit_bytes: int = FOLD_LIMIT_BYTES,
    *,
    selects_rows: bool = False,
    keeps_casts: bool = True,
) -> bytes:
    """Serialise the step of a model. `weight_bits` is the width of an int8 weight: 7 or 8.

    Inputs: `tokens` (rows,) int64 and `state_0`, `state_1`, … (rows, units) float32 in the order
    of `ModelSpec.state_units`. Outputs: `logits` (rows, vocabulary) float32, `new_state_0`, … and,
    without `selects_rows`, each layer's gates by their `gate_name`, (rows, units) float32.
    Every reader of `state_i` is an ancestor of `new_state_i`, or is the node that computes it
    element by element, so both may be the same memory. With `selects_rows` there is an input
    `active` (rows, 1) bool, and the other rows keep their states. `keeps_casts` is for devices
    without float16 products: ONNX Runtime would leave out casts there and back, and their rounding.
    """
    graph = CarriedGraph(spec, weights, precision, weight_bits, fold_limit_bytes)
    graph.keeps_casts = keeps_casts
    if selects_rows:
        graph.select_rows()
    return bytes(graph.build().SerializeToString())


def build_held_graph(
    spec: ModelSpec, weights: Weights, precision: Precision, weight_bits: int
) -> bytes:
    """Serialise the same step with two inputs more for each recurrent layer, by `hold_names`.

    They are (rows, units): where the bool is true, c, or the h of a cell without c, is replaced.
    """
    graph = CarriedGraph(spec, weights, precision, weight_bits, FOLD_LIMIT_BYTES)
    graph.holds_cells = True
    return bytes(graph.build().SerializeToString())


class CarriedGraph(NetworkGraph):
    """The graph of one step of a model that carries its state."""

    _active = ""  # (rows, 1) bool; the input's name where there is one
    holds_cells = False
    _units = 0  # of the layer whose nodes are added
    _n_states = 0

    def select_rows(self) -> None:
        """Add the input `active`: the other rows keep their states."""
        self._active = "active"

    def build(self) -> ModelProto:
        """Return the model."""
        if self._active:
            info = helper.make_tensor_value_info
            self._inputs.append(info(self._active, TensorProto.BOOL, ["rows", 1]))
        return super().build()

    def gate(self, name: str, x: str) -> str:
        """Make a gate an output of the graph, without a node that copies it."""
        if self._active:
            return x
        node, renamed = self._nodes[-1], gate_name(self._scope, name)
        assert list(node.output) == [x]
        node.output[0] = renamed
        self._outputs.append(helper.make_tensor_value_info(renamed, TensorProto.FLOAT, None))
        return renamed

    def hold(self, x: str, name: str, before: str) -> str:  # noqa: ARG002 (for subclasses)
        """Select between the new values and those of the layer's input, by the layer's mask."""
        if not self.holds_cells:
            return x
        names, kinds = hold_names(self._scope), (TensorProto.BOOL, TensorProto.FLOAT)
        for one, kind in zip(names, kinds, strict=True):
            info = helper.make_tensor_value_info(one, kind, ["rows", self._units])
            self._inputs.append(info)
        return self.node("Where", *names, x)

    def add_recurrent(self, layer: LayerSpec, weights: Mapping[str, FloatArray], xw: str) -> str:
        """Add one step, with the layer's states as inputs and outputs of the graph."""
        cell, info = CELLS[layer.cell], helper.make_tensor_value_info
        first, self._units = self._n_states, layer.units
        self._n_states += len(cell.states)
        before = [f"state_{first + i}" for i in range(len(cell.states))]
        after = cell.add_step(self, layer, weights, xw, before)
        if self._mask:
            after = [
                self.node("Where", self._mask, kept, new)
                for kept, new in zip(before, after, strict=True)
            ]
        h = after[0]
        if self._active:
            after = [
                self.node("Where", self._active, new, kept)
                for kept, new in zip(before, after, strict=True)
            ]
        for i, name in enumerate(after, first):
            self.node("Identity", name, output=f"new_state_{i}")
            self._inputs.append(info(f"state_{i}", TensorProto.FLOAT, ["rows", layer.units]))
            self._outputs.append(info(f"new_state_{i}", TensorProto.FLOAT, ["rows", layer.units]))
        return h


def gate_name(scope: str, name: str) -> str:
    """Return the name of a gate's tensor; `scope` is that of the layer's weights."""
    return f"{scope}gate.{name}"


def hold_names(scope: str) -> tuple[str, str]:
    """Return the names of the inputs that hold a layer's cells: the mask and the values."""
    return f"{scope}hold.mask", f"{scope}hold.values"
