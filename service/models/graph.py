"""A spec and its weights as an ONNX graph of one step: tokens and state in, logits and state out.

For an LSTM of float32, with the embedding folded into a table of one row a token:

    x = Gather(table, tokens)          z = x + h U          i, f, g, o = Split(z)
    c' = σ(f) c + σ(i) φ(g)            h' = σ(o) φ(c')      logits = h' K + k

In int8 every product with an h is `MatMulIntegerToFloat(Quantize(h), columns of int8)`: h lies in
(-1, 1) by construction, so its scale is the constant 1/127 and nothing has to be calibrated.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from service.models.bundle import Precision
from service.models.spec import FOLD_LIMIT_BYTES, Activation, Cell, LayerSpec, ModelSpec, Weights

OPSET, MICROSOFT_OPSET, IR_VERSION = 21, 1, 10

WIDE_VOCABULARY = 256
"""From this many columns on the output layer, too, is worth its int8."""

_HARD_SLOPES = {Activation.HARD_SIGMOID_02: 0.2, Activation.HARD_SIGMOID_6: 1.0 / 6.0}
_OPERATORS = {
    Activation.TANH: "Tanh",
    Activation.SIGMOID: "Sigmoid",
    Activation.RELU: "Relu",
    Activation.LINEAR: "Identity",
}


def build_graph(spec: ModelSpec, weights: Weights, precision: Precision, weight_bits: int) -> bytes:
    """Serialise the step of a model.

    Inputs: `tokens` (rows,) int64 and `state_0`, `state_1`, … (rows, units) float32 in the order
    of `ModelSpec.state_units`. Outputs: `logits` (rows, vocabulary) float32 and `new_state_0`, ….
    Every reader of `state_i` is an ancestor of `new_state_i`, so both may be the same memory.
    """
    model = _Graph(spec, weights, precision, weight_bits).build()
    return bytes(model.SerializeToString())


class _Graph:
    """Nodes and constants while they are being collected."""

    def __init__(
        self, spec: ModelSpec, weights: Weights, precision: Precision, weight_bits: int
    ) -> None:
        self._spec, self._weights = spec, weights
        self._is_int8 = precision is Precision.INT8
        self._largest = 2 ** (weight_bits - 1) - 1
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._quantised: dict[str, str] = {}

    def build(self) -> ModelProto:
        state = iter([f"state_{i}" for i in range(len(self._spec.state_units))])
        x, made = "", []
        for i, layer in enumerate(self._spec.layers):
            part = f"layers.{i}"
            product = self._first_product(layer) if i == 0 else self._input_product(part, x)
            mine = [next(state) for _ in layer.states]
            mine = (
                self._gru(part, layer, product, *mine)
                if layer.cell is Cell.GRU
                else self._lstm(part, layer, product, *mine)
            )
            x = mine[0]
            made.extend(mine)
        self._output(x)
        for i, name in enumerate(made):
            self._node("Identity", name, name=f"new_state_{i}")
        graph = helper.make_graph(
            self._nodes, "step", self._inputs(), self._outputs(), list(self._constants.values())
        )
        opsets = [
            helper.make_opsetid("", OPSET),
            helper.make_opsetid("com.microsoft", MICROSOFT_OPSET),
        ]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

    def _inputs(self) -> list[ValueInfoProto]:
        return [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, ["rows"]),
            *self._state_infos("state"),
        ]

    def _outputs(self) -> list[ValueInfoProto]:
        shape: list[str | int | None] = ["rows", self._spec.vocabulary_size]
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
        return [logits, *self._state_infos("new_state")]

    def _state_infos(self, name: str) -> Iterator[ValueInfoProto]:
        for i, units in enumerate(self._spec.state_units):
            yield helper.make_tensor_value_info(f"{name}_{i}", TensorProto.FLOAT, ["rows", units])

    # -- layers

    def _first_product(self, layer: LayerSpec) -> str:
        """X W + b of the first layer: a gather where the table is small enough."""
        kernel = self._weights["layers.0.kernel"].astype(np.float64)
        bias = self._input_bias("layers.0")
        embedding = self._weights.get("embedding")
        if embedding is not None:
            table_bytes = 4 * self._spec.vocabulary_size * layer.gates * layer.units
            if table_bytes > FOLD_LIMIT_BYTES:
                x = self._node("Gather", self._constant("embedding", embedding), "tokens")
                product = self._node("MatMul", x, self._constant("layers.0.kernel", kernel))
                return self._node("Add", product, self._constant("layers.0.bias", bias))
            kernel = embedding.astype(np.float64) @ kernel
        return self._node("Gather", self._constant("table", kernel + bias), "tokens")

    def _input_product(self, part: str, x: str) -> str:
        product = self._product(x, f"{part}.kernel", self._weights[f"{part}.kernel"])
        return self._node("Add", product, self._constant(f"{part}.bias", self._input_bias(part)))

    def _input_bias(self, part: str) -> npt.NDArray[np.float64]:
        """The bias beside x W: for a GRU with reset_after the first of its two rows."""
        bias = self._weights.get(f"{part}.bias")
        if bias is None:
            return np.zeros(1)
        return (bias[0] if bias.ndim == 2 else bias).astype(np.float64)

    def _lstm(self, part: str, layer: LayerSpec, product: str, h: str, c: str) -> list[str]:
        recurrent = f"{part}.recurrent_kernel"
        z = self._node("Add", product, self._product(h, recurrent, self._weights[recurrent]))
        z_i, z_f, z_g, z_o = self._split(z, 4, layer.units)
        peepholes = self._weights.get(f"{part}.peephole")
        if peepholes is not None:
            p_i, p_f, p_o = (
                self._constant(f"{part}.peephole.{i}", p) for i, p in enumerate(peepholes)
            )
            z_i = self._node("Add", z_i, self._node("Mul", p_i, c))
            z_f = self._node("Add", z_f, self._node("Mul", p_f, c))
        kept = self._node("Mul", self._activate(layer.recurrent_activation, z_f), c)
        new = self._node(
            "Mul",
            self._activate(layer.recurrent_activation, z_i),
            self._activate(layer.activation, z_g),
        )
        c = self._node("Add", kept, new)
        if peepholes is not None:
            z_o = self._node("Add", z_o, self._node("Mul", p_o, c))
        o = self._activate(layer.recurrent_activation, z_o)
        return [self._node("Mul", o, self._activate(layer.activation, c)), c]

    def _gru(self, part: str, layer: LayerSpec, product: str, h: str) -> list[str]:
        recurrent, units = self._weights[f"{part}.recurrent_kernel"], layer.units
        x_z, x_r, x_h = self._split(product, 3, units)
        if layer.reset_after:
            inner = self._product(h, f"{part}.recurrent_kernel", recurrent)
            bias = self._weights.get(f"{part}.bias")
            if bias is not None:
                inner = self._node("Add", inner, self._constant(f"{part}.recurrent_bias", bias[1]))
            u_z, u_r, u_h = self._split(inner, 3, units)
        else:
            gates = self._product(h, f"{part}.recurrent_kernel.gates", recurrent[:, : 2 * units])
            u_z, u_r = self._split(gates, 2, units)
        z = self._activate(layer.recurrent_activation, self._node("Add", x_z, u_z))
        r = self._activate(layer.recurrent_activation, self._node("Add", x_r, u_r))
        if layer.reset_after:
            u_h = self._node("Mul", r, u_h)
        else:
            name = f"{part}.recurrent_kernel.candidate"
            u_h = self._product(self._node("Mul", r, h), name, recurrent[:, 2 * units :])
        candidate = self._activate(layer.activation, self._node("Add", x_h, u_h))
        rest = self._node("Sub", self._constant("one", np.ones(1)), z)
        return [self._node("Add", self._node("Mul", z, h), self._node("Mul", rest, candidate))]

    def _output(self, x: str) -> None:
        kernel, bias = self._weights["output.kernel"], self._weights.get("output.bias")
        if self._is_int8 and kernel.shape[1] >= WIDE_VOCABULARY:
            product = self._product(x, "output.kernel", kernel)
        else:
            product = self._node("MatMul", x, self._constant("output.kernel", kernel))
        shift = np.zeros(1) if bias is None else bias
        self._node("Add", product, self._constant("output.bias", shift), name="logits")

    # -- pieces

    def _product(self, x: str, name: str, kernel: npt.NDArray[np.floating]) -> str:
        """X times a kernel, where x is an h or a gated h: within (-1, 1)."""
        if not self._is_int8:
            return self._node("MatMul", x, self._constant(name, kernel))
        scale = np.abs(kernel).max(axis=0) / self._largest
        scale[scale == 0.0] = 1.0
        columns = np.rint(kernel / scale).astype(np.int8)
        step = self._constant("h.scale", np.array(1.0 / 127.0))
        zero = self._constant("h.zero", np.array(128, dtype=np.uint8))
        if x not in self._quantised:
            self._quantised[x] = self._node("QuantizeLinear", x, step, zero)
        return self._node(
            "MatMulIntegerToFloat",
            self._quantised[x],
            self._constant(f"{name}.int8", columns),
            step,
            self._constant(f"{name}.scale", scale),
            zero,
            domain="com.microsoft",
        )

    def _activate(self, activation: Activation, x: str) -> str:
        if activation in _HARD_SLOPES:
            return self._node("HardSigmoid", x, alpha=_HARD_SLOPES[activation], beta=0.5)
        return self._node(_OPERATORS[activation], x)

    def _split(self, x: str, parts: int, units: int) -> list[str]:
        names = [f"{x}/{i}" for i in range(parts)]
        sizes = self._constant(f"split.{parts}.{units}", np.full(parts, units, dtype=np.int64))
        self._nodes.append(helper.make_node("Split", [x, sizes], names, axis=1))
        return names

    def _constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        if name not in self._constants:
            array = value.astype(np.float32) if value.dtype.kind == "f" else value
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def _node(
        self, operator: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any
    ) -> str:
        name = name or f"n{len(self._nodes)}"
        node = helper.make_node(operator, inputs, [name], domain=domain, **attributes)
        self._nodes.append(node)
        return name
