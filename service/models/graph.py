"""Builds the ONNX graph of one step of a model: tokens and state in, logits and new state out.

`window_graph` has the graph of a whole window; both share the nodes of layers and products.

For an LSTM in float32, with the embedding folded into a table of one row per token:

    x = Gather(table, tokens)          z = x + h U          i, f, g, o = Split(z)
    c' = σ(f) c + σ(i) φ(g)            h' = σ(o) φ(c')      logits = h' K + k

In int8 every product with an h is `MatMulIntegerToFloat(Quantize(h), columns of int8)`: h is in
(-1, 1) by construction, so its scale is the constant 1/127 and needs no calibration. In float16
the factors and the result of such a product are rounded; gates and states stay float32.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from service.errors import BadCheckpoint
from service.models.bundle import Precision
from service.models.cell import Activation, LayerSpec
from service.models.layers import ActivationLayer, Dense, Merge, MergeMode
from service.models.mask import masked_tokens
from service.models.spec import (
    AnyLayer,
    FloatArray,
    ModelSpec,
    Weights,
    is_bounded,
    layer_weights,
)

OPSET, MICROSOFT_OPSET, IR_VERSION = 21, 1, 10

WIDE_VOCABULARY = 256
"""Number of columns from which the output layer is computed in int8, too."""

_INPUT = "input"
"""The model's input as a value of a layer: a token's embedding or its one-hot row."""

_HARD_SLOPES = {Activation.HARD_SIGMOID_02: 0.2, Activation.HARD_SIGMOID_6: 1.0 / 6.0}
_OPERATORS = {
    Activation.TANH: "Tanh",
    Activation.SIGMOID: "Sigmoid",
    Activation.RELU: "Relu",
    Activation.ELU: "Elu",
    Activation.SELU: "Selu",
    Activation.SOFTPLUS: "Softplus",
    Activation.SOFTSIGN: "Softsign",
    Activation.EXPONENTIAL: "Exp",
    Activation.LINEAR: "Identity",
}


class NetworkGraph(ABC):
    """Collects the nodes and constants of a model. Implements `StepGraph` and `LayerGraph`.

    The tensor `tokens` is (rows,) or, with a window, (steps, rows). Token `vocabulary_size` is the
    input 0.
    """

    has_window = False
    keeps_casts = True

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights,
        precision: Precision,
        weight_bits: int,
        fold_limit_bytes: int,
    ) -> None:
        self._spec, self._weights = spec, weights
        self._precision = Precision(precision)  # its name is one too
        self._max_weight = 2 ** (weight_bits - 1) - 1
        self._fold_limit_bytes = fold_limit_bytes
        self._nodes: list[NodeProto] = []
        self._n_names = 0
        self._constants: dict[str, TensorProto] = {}
        self._quantised: dict[str, str] = {}
        self._bounded: set[str] = set()  # tensors within (-1, 1)
        self._scope = ""  # prefix of the current layer's constants
        self._input = ""  # the embedding or the one-hot input, once a layer reads it as such
        self._mask = ""  # (…, 1) bool, True where a step keeps the state
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []

    def build(self) -> ModelProto:
        """Return the model."""
        spec, info = self._spec, helper.make_tensor_value_info
        dimensions = ["steps", "rows"] if self.has_window else ["rows"]
        self._inputs.append(info("tokens", TensorProto.INT64, dimensions))
        self._outputs.append(info("logits", TensorProto.FLOAT, ["rows", spec.vocabulary_size]))
        masked = masked_tokens(spec, self._weights)
        if masked[: self._n_rows].any():
            self._mask = self.node("Gather", self.constant("masked", masked[:, None]), "tokens")
        values = [_INPUT]
        for i, layer in enumerate(spec.layers):
            self._scope = layer_scope(i)
            inputs = [values[j] for j in spec.inputs_of(i)]
            weights = layer_weights(self._weights, i)
            if isinstance(layer, LayerSpec):
                kernel = weights["kernel"]
                product = self.project(inputs[0], "kernel", kernel, _input_bias(weights))
                values.append(self.add_recurrent(layer, weights, product))
            else:
                takes_input = isinstance(layer, Dense)  # folded into a table
                read = inputs if takes_input else [self._materialised(x) for x in inputs]
                values.append(layer.add_to(self, weights, read))
            if _stays_bounded(layer, [x in self._bounded for x in inputs]):
                self._bounded.add(values[-1])
        self._scope = ""
        last = self._materialised(values[-1])
        self._add_output(self.last_step(last) if spec.has_steps else last)
        return helper.make_model(
            helper.make_graph(
                self._nodes, "network", self._inputs, self._outputs, list(self._constants.values())
            ),
            opset_imports=[
                helper.make_opsetid("", OPSET),
                helper.make_opsetid("com.microsoft", MICROSOFT_OPSET),
            ],
            ir_version=IR_VERSION,
        )

    @abstractmethod
    def add_recurrent(self, layer: LayerSpec, weights: Mapping[str, FloatArray], xw: str) -> str:
        """Add a recurrent layer's steps; return the h of each. `xw` is x W + b."""

    def last_step(self, x: str) -> str:
        """Select the last step."""
        return x

    # -- layers

    def project(
        self,
        x: str,
        name: str,
        kernel: npt.NDArray[np.generic],
        bias: npt.NDArray[np.generic] | None,
    ) -> str:
        """Add x W + b: for the model's input a gather if the table is small enough."""
        weight = kernel.astype(np.float64)
        added = np.zeros(1) if bias is None else bias.astype(np.float64)
        if x == _INPUT:
            if self._spec.embedding_dim is not None:
                size_bytes = 4 * self._spec.vocabulary_size * kernel.shape[1]
                if size_bytes > self._fold_limit_bytes:
                    return self.project(self._materialised(x), name, kernel, bias)
                weight = self._weights["embedding"].astype(np.float64) @ weight
            table = self.constant("table", self._with_zero(weight) + added)
            return self.node("Gather", table, "tokens")
        if x in self._bounded:
            product = self.product(x, name, kernel.astype(np.float32))
        else:
            product = self.node("MatMul", x, self.constant(name, weight))
        return self.node("Add", product, self.constant("bias", added))

    @property
    def _n_rows(self) -> int:
        """Rows of a table by token: in a window the input 0 is one more."""
        return self._spec.vocabulary_size + self.has_window

    def _with_zero(self, table: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        return np.pad(table, ((0, self.has_window), (0, 0)))

    def _materialised(self, x: str) -> str:
        """Return the tensor of a value, the model's input as the embedding or one-hot."""
        if x != _INPUT:
            return x
        if not self._input:
            size = self._spec.vocabulary_size
            rows = self._weights.get("embedding")
            if rows is None and 4 * size * size > self._fold_limit_bytes:
                raise BadCheckpoint(
                    f"a layer that is not recurrent or dense reads {size} tokens one-hot; the "
                    f"limit is {int((self._fold_limit_bytes / 4) ** 0.5)}"
                )
            table = np.eye(size, dtype=np.float32) if rows is None else rows
            whole = self._constant("embedding", self._with_zero(table))
            self._input = self.node("Gather", whole, "tokens")
        return self._input

    def _add_output(self, x: str) -> None:
        kernel, bias = self._weights["output.kernel"], self._weights.get("output.bias", np.zeros(1))
        is_reduced = self._precision is not Precision.FLOAT32
        if is_reduced and kernel.shape[1] >= WIDE_VOCABULARY and x in self._bounded:
            product = self.product(x, "output.kernel", kernel)
        else:
            product = self.node("MatMul", x, self.constant("output.kernel", kernel))
        self.node("Add", product, self.constant("output.bias", bias), output="logits")

    # -- nodes, for cells, too

    def node(
        self, operator: str, *inputs: str, output: str = "", domain: str = "", **attributes: Any
    ) -> str:
        """Add a node; return its output."""
        if not output:
            output = f"n{self._n_names}"
            self._n_names += 1
        node = helper.make_node(operator, inputs, [output], domain=domain, **attributes)
        self._nodes.append(node)
        return output

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Add a constant of the layer, floats as float32; return its full name."""
        return self._constant(self._scope + name, value)

    def _constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        if name not in self._constants:
            is_wide = value.dtype.kind == "f" and value.dtype != np.float16
            array = value.astype(np.float32) if is_wide else value
            self._constants[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def product(self, x: str, name: str, kernel: npt.NDArray[np.float32]) -> str:
        """Add `x @ kernel`, where x is an h or a gated h: within (-1, 1)."""
        if self._precision is Precision.FLOAT32:
            return self.node("MatMul", x, self.constant(name, kernel))
        if self._precision is Precision.FLOAT16:
            return self._half_product(x, f"{name}.float16", kernel)
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

    def _half_product(self, x: str, name: str, kernel: npt.NDArray[np.float32]) -> str:
        def rounded(half: str) -> str:
            """Return a copy, between two casts that are then not left out."""
            return self.node("Concat", half, axis=1) if self.keeps_casts else half

        if x not in self._quantised:
            self._quantised[x] = rounded(self.node("Cast", x, to=TensorProto.FLOAT16))
        weights = self.constant(name, kernel.astype(np.float16))
        product = rounded(self.node("MatMul", self._quantised[x], weights))
        return self.node("Cast", product, to=TensorProto.FLOAT)

    def split(self, x: str, parts: int, units: int) -> list[str]:
        """Split the columns of `x` into blocks of `units`."""
        names = [f"{x}/{i}" for i in range(parts)]
        sizes = self._constant(f"split.{parts}.{units}", np.full(parts, units, dtype=np.int64))
        self._nodes.append(helper.make_node("Split", [x, sizes], names, axis=1))
        return names

    def gate(self, name: str, x: str) -> str:  # noqa: ARG002 (for subclasses)
        """Name a gate, which the last node has computed."""
        return x

    def hold(self, x: str, name: str, before: str) -> str:  # noqa: ARG002 (for subclasses)
        """Replace the new c, or the h of a cell without one, where that is asked for."""
        return x

    def activate(self, activation: Activation, x: str) -> str:
        """Apply an activation."""
        if activation in _HARD_SLOPES:
            return self.node("HardSigmoid", x, alpha=_HARD_SLOPES[activation], beta=0.5)
        if activation is Activation.SILU:
            return self.node("Mul", x, self.node("Sigmoid", x))
        return self.node(_OPERATORS[activation], x)


def layer_scope(i: int) -> str:
    """Return the prefix of the tensors of `ModelSpec.layers[i]`."""
    return f"layers.{i}."


def _stays_bounded(layer: AnyLayer, inputs: Sequence[bool]) -> bool:
    """Whether a layer's output is within (-1, 1), from whether each of its inputs is."""
    if isinstance(layer, LayerSpec):
        return is_bounded(layer)
    if isinstance(layer, Dense | ActivationLayer):
        return layer.activation is Activation.TANH
    has_other_range = isinstance(layer, Merge) and layer.mode is MergeMode.ADD
    keeps_range = isinstance(layer, Merge) or layer.reduces_steps
    return all(inputs) and keeps_range and not has_other_range


def _input_bias(weights: Mapping[str, FloatArray]) -> npt.NDArray[np.float64]:
    """Return the bias to add to x W: the first row of a bias of two rows."""
    bias = weights.get("bias", np.zeros(1))
    return (bias[0] if bias.ndim == 2 else bias).astype(np.float64)
