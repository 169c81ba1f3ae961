"""Builds the ONNX graph of one step of a model: tokens and state in, logits and new state out.

For an LSTM in float32, with the embedding folded into a table of one row per token:

    x = Gather(table, tokens)          z = x + h U          i, f, g, o = Split(z)
    c' = σ(f) c + σ(i) φ(g)            h' = σ(o) φ(c')      logits = h' K + k

In int8 every product with an h is `MatMulIntegerToFloat(Quantize(h), columns of int8)`: h is in
(-1, 1) by construction, so its scale is the constant 1/127 and needs no calibration.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from service.models.bundle import Precision
from service.models.cell import Activation
from service.models.cells import CELLS
from service.models.spec import FOLD_LIMIT_BYTES, FloatArray, ModelSpec, Weights, layer_weights

OPSET, MICROSOFT_OPSET, IR_VERSION = 21, 1, 10

WIDE_VOCABULARY = 256
"""Number of columns from which the output layer is computed in int8, too."""

_HARD_SLOPES = {Activation.HARD_SIGMOID_02: 0.2, Activation.HARD_SIGMOID_6: 1.0 / 6.0}
_OPERATORS = {
    Activation.TANH: "Tanh",
    Activation.SIGMOID: "Sigmoid",
    Activation.RELU: "Relu",
    Activation.LINEAR: "Identity",
}


def build_graph(
    spec: ModelSpec,
    weights: Weights,
    precision: Precision,
    weight_bits: int,
    fold_limit_bytes: int = FOLD_LIMIT_BYTES,
) -> bytes:
    """Serialise the step of a model. `weight_bits` is the width of an int8 weight: 7 or 8.

    Inputs: `tokens` (rows,) int64 and `state_0`, `state_1`, … (rows, units) float32 in the order
    of `ModelSpec.state_units`. Outputs: `logits` (rows, vocabulary) float32 and `new_state_0`, ….
    Every reader of `state_i` is an ancestor of `new_state_i`, so both may be the same memory.
    """
    model = _Graph(spec, weights, precision, weight_bits, fold_limit_bytes).build()
    return bytes(model.SerializeToString())


class _Graph:
    """Collects nodes and constants. Implements `service.models.cell.StepGraph`."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights,
        precision: Precision,
        weight_bits: int,
        fold_limit_bytes: int,
    ) -> None:
        self._spec, self._weights = spec, weights
        self._is_int8 = precision is Precision.INT8
        self._max_weight = 2 ** (weight_bits - 1) - 1
        self._fold_limit_bytes = fold_limit_bytes
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._quantised: dict[str, str] = {}
        self._scope = ""  # prefix of the current layer's constants

    def build(self) -> ModelProto:
        spec, info = self._spec, helper.make_tensor_value_info
        state = iter([f"state_{i}" for i in range(len(spec.state_units))])
        x, new_states = "", []
        for i, layer in enumerate(spec.recurrent_layers):
            cell, weights = CELLS[layer.cell], layer_weights(self._weights, i)
            self._scope = f"layers.{i}."
            if i == 0:
                product = self._first_product(weights)
            else:
                product = self.product(x, "kernel", weights["kernel"])
                product = self.node("Add", product, self.constant("bias", _input_bias(weights)))
            before = [next(state) for _ in cell.states]
            x, *others = cell.add_step(self, layer, weights, product, before)
            new_states += [x, *others]
        self._scope = ""
        self._add_output(x)
        inputs = [info("tokens", TensorProto.INT64, ["rows"])]
        outputs = [info("logits", TensorProto.FLOAT, ["rows", spec.vocabulary_size])]
        for i, (name, units) in enumerate(zip(new_states, spec.state_units, strict=True)):
            self.node("Identity", name, output=f"new_state_{i}")
            inputs.append(info(f"state_{i}", TensorProto.FLOAT, ["rows", units]))
            outputs.append(info(f"new_state_{i}", TensorProto.FLOAT, ["rows", units]))
        constants = list(self._constants.values())
        return helper.make_model(
            helper.make_graph(self._nodes, "step", inputs, outputs, constants),
            opset_imports=[
                helper.make_opsetid("", OPSET),
                helper.make_opsetid("com.microsoft", MICROSOFT_OPSET),
            ],
            ir_version=IR_VERSION,
        )

    # -- layers

    def _first_product(self, weights: Mapping[str, FloatArray]) -> str:
        """Add x W + b of the first layer: a gather if the table is small enough."""
        kernel, bias = weights["kernel"].astype(np.float64), _input_bias(weights)
        embedding = self._weights.get("embedding")
        if embedding is not None:
            if 4 * self._spec.vocabulary_size * kernel.shape[1] > self._fold_limit_bytes:
                x = self.node("Gather", self._constant("embedding", embedding), "tokens")
                product = self.node("MatMul", x, self.constant("kernel", kernel))
                return self.node("Add", product, self.constant("bias", bias))
            kernel = embedding.astype(np.float64) @ kernel
        return self.node("Gather", self._constant("table", kernel + bias), "tokens")

    def _add_output(self, x: str) -> None:
        kernel, bias = self._weights["output.kernel"], self._weights.get("output.bias", np.zeros(1))
        if self._is_int8 and kernel.shape[1] >= WIDE_VOCABULARY:
            product = self.product(x, "output.kernel", kernel)
        else:
            product = self.node("MatMul", x, self.constant("output.kernel", kernel))
        self.node("Add", product, self.constant("output.bias", bias), output="logits")

    # -- nodes, for cells, too

    def node(
        self, operator: str, *inputs: str, output: str = "", domain: str = "", **attributes: Any
    ) -> str:
        """Add a node; return its output."""
        output = output or f"n{len(self._nodes)}"
        node = helper.make_node(operator, inputs, [output], domain=domain, **attributes)
        self._nodes.append(node)
        return output

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Add a constant of the layer, floats as float32; return its full name."""
        return self._constant(self._scope + name, value)

    def _constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        if name not in self._constants:
            array = value.astype(np.float32) if value.dtype.kind == "f" else value
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def product(self, x: str, name: str, kernel: npt.NDArray[np.float32]) -> str:
        """Add `x @ kernel`, where x is an h or a gated h: within (-1, 1)."""
        if not self._is_int8:
            return self.node("MatMul", x, self.constant(name, kernel))
        scale = np.abs(kernel).max(axis=0) / self._max_weight
        scale[scale == 0.0] = 1.0
        columns = np.rint(kernel / scale).astype(np.int8)
        step = self._constant("h.scale", np.array(1.0 / 127.0))
        zero = self._constant("h.zero", np.array(128, dtype=np.uint8))
        if x not in self._quantised:
            self._quantised[x] = self.node("QuantizeLinear", x, step, zero)
        weights = self.constant(f"{name}.int8", columns)
        scales = self.constant(f"{name}.scale", scale)
        inputs = (self._quantised[x], weights, step, scales, zero)
        return self.node("MatMulIntegerToFloat", *inputs, domain="com.microsoft")

    def split(self, x: str, parts: int, units: int) -> list[str]:
        """Split the columns of `x` into blocks of `units`."""
        names = [f"{x}/{i}" for i in range(parts)]
        sizes = self._constant(f"split.{parts}.{units}", np.full(parts, units, dtype=np.int64))
        self._nodes.append(helper.make_node("Split", [x, sizes], names, axis=1))
        return names

    def activate(self, activation: Activation, x: str) -> str:
        """Apply an activation."""
        if activation in _HARD_SLOPES:
            return self.node("HardSigmoid", x, alpha=_HARD_SLOPES[activation], beta=0.5)
        return self.node(_OPERATORS[activation], x)


def _input_bias(weights: Mapping[str, FloatArray]) -> npt.NDArray[np.float64]:
    """Return the bias to add to x W: the first row of a bias of two rows."""
    bias = weights.get("bias", np.zeros(1))
    return (bias[0] if bias.ndim == 2 else bias).astype(np.float64)
