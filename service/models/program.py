"""The step program that runs on ONNX Runtime."""

import os
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from service.errors import Validation
from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.cells import CELLS
from service.models.graph import IR_VERSION, OPSET, layer_scope
from service.models.spec import FOLD_LIMIT_BYTES, FloatArray, ModelSpec, Weights
from service.models.step import Batch, Trace, zero_batch
from service.models.step_graph import build_graph, gate_name

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # a server reports nothing to third parties
import onnxruntime as ort

LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
STOPS_SPINNING_ABOVE = 8_192
"""Vocabularies above it: the sampler takes as long as the step and gets every core for it.

ONNX Runtime's threads otherwise wait in a loop for the next step, for about a millisecond: with
20,000 tokens, 64 rows and an LSTM(150) the engine then has 0.35 of the step's speed, not 0.55.
"""


class OnnxProgram:
    """A step program on ONNX Runtime. Holds no state between steps."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights,
        precision: Precision,
        threads: int = 1,
        fold_limit_bytes: int = FOLD_LIMIT_BYTES,
        *,
        spins: bool = True,
    ) -> None:
        """Compile the graph. Raises Validation as `check_precision`."""
        check_precision(spec, weights, precision)
        graph = build_graph(spec, weights, precision, int8_weight_bits(), fold_limit_bytes)
        is_wide = spec.vocabulary_size > STOPS_SPINNING_ABOVE
        self._session = open_session(graph, threads, spins=spins, stops_spinning=is_wide)
        self._spec = spec
        self.vocabulary_size = spec.vocabulary_size

    def new_batch(self, capacity: int) -> Batch:
        """Allocate a batch of `capacity` rows, all in the zero state."""
        return zero_batch(self._spec, capacity)

    def step(self, batch: Batch, rows: int) -> None:
        """Feed `tokens` of the first `rows` rows; update their states, write their logits."""
        binding = batch.bindings.get(rows)
        if binding is None:
            binding = batch.bindings[rows] = self._bind(batch, rows)
        self._session.run_with_iobinding(binding)

    def trace(self, batch: Batch) -> Trace:
        """Return the trace of a batch: the same graph, with its gates bound, too."""
        gates, outputs = traced_gates(self._spec, len(batch.tokens))
        bindings: dict[int, Any] = {}

        def step(rows: int) -> None:
            binding = bindings.get(rows)
            if binding is None:
                binding = bindings[rows] = self._bind(batch, rows, outputs)
            self._session.run_with_iobinding(binding)

        return Trace(step, gates)

    def _bind(
        self, batch: Batch, rows: int, gates: Mapping[str, npt.NDArray[Any]] = MappingProxyType({})
    ) -> Any:
        """Bind the graph to the first rows of the batch, states in place (see `build_graph`)."""
        binding = bind_batch(self._session, batch, rows)
        for name, array in gates.items():
            bind_array(binding.bind_output, name, array, rows)
        return binding


def traced_gates(
    spec: ModelSpec, capacity: int
) -> tuple[tuple[Mapping[str, FloatArray], ...], Mapping[str, FloatArray]]:
    """Allocate the gates of traced steps: by recurrent layer, and by the name of their tensor."""
    gates = {
        i: {
            name: np.zeros((capacity, layer.units), np.float32)
            for name in CELLS[layer.cell].activated
        }
        for i, layer in enumerate(spec.layers)
        if isinstance(layer, LayerSpec)
    }
    outputs = {
        gate_name(layer_scope(i), name): array
        for i, of_layer in gates.items()
        for name, array in of_layer.items()
    }
    return tuple(gates.values()), outputs


def bind_batch(session: Any, batch: Batch, rows: int) -> Any:
    """Bind a step's graph to the tokens, states and logits of the first rows, states in place."""
    binding = session.io_binding()
    bind_array(binding.bind_input, "tokens", batch.tokens, rows)
    bind_array(binding.bind_output, "logits", batch.logits, rows)
    for i, state in enumerate(batch.states):
        bind_array(binding.bind_input, f"state_{i}", state, rows)
        bind_array(binding.bind_output, f"new_state_{i}", state, rows)
    return binding


def bind_array(bind: Any, name: str, array: npt.NDArray[Any], rows: int) -> None:
    """Bind the first rows of an array by `bind`: a binding's `bind_input` or `bind_output`."""
    bind(name, "cpu", 0, array.dtype.type, (rows, *array.shape[1:]), array.ctypes.data)


def check_precision(spec: ModelSpec, weights: Weights, precision: Precision) -> None:
    """Raise Validation if a precision needs what the model lacks."""
    precision = Precision(precision)  # its name is one too
    if precision is not Precision.FLOAT32 and not spec.is_bounded:
        raise Validation(
            f"precision {precision} needs h within (-1, 1): activation tanh and sigmoid gates in "
            "every layer; use float32"
        )
    if precision is Precision.FLOAT16:
        largest = max(float(np.abs(each).max(initial=0.0)) for each in weights.values())
        if largest > LARGEST_FLOAT16:
            raise Validation(
                f"precision float16 has no number above {LARGEST_FLOAT16:,.0f}, and the largest "
                f"weight is {largest:,.0f}; use float32"
            )


def open_session(
    graph: bytes,
    threads: int,
    *,
    has_patterns: bool = True,
    spins: bool = True,
    stops_spinning: bool = False,
) -> Any:
    """Open a session of ONNX Runtime.

    `has_patterns` plans memory for each shape of the inputs. With `spins` its threads wait for work
    in a loop, also between two runs unless `stops_spinning`: else they sleep.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = has_patterns
    options.log_severity_level = 3
    if not spins:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    elif stops_spinning:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    drop_graph(session)
    return session


def drop_graph(session: Any) -> None:
    """Free the serialised graph, which a session keeps to be opened again elsewhere if it fails."""
    session.disable_fallback()
    session._model_bytes = b""  # noqa: SLF001 (all weights once more, and nothing public frees it)


@cache
def int8_weight_bits() -> int:
    """Return the width of an int8 weight on this machine: 8 bits, or 7 if sums saturate.

    x86 processors without VNNI add pairs of u8 * s8 products in 16 bits with saturation: 255 * 63
    * 2 fits, 255 * 127 * 2 does not. ONNX Runtime's own kernels are tested.
    """
    inner, rows, columns = 64, 4, 64
    info = helper.make_tensor_value_info
    a = info("a", TensorProto.UINT8, [rows, inner])
    sums = info("product", TensorProto.INT32, [rows, columns])
    kernel = helper.make_tensor("b", TensorProto.INT8, [inner, columns], [127] * inner * columns)
    node = helper.make_node("MatMulInteger", ["a", "b"], ["product"])
    graph = helper.make_graph([node], "probe", [a], [sums], [kernel])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"a": np.full((rows, inner), 255, np.uint8)})
    return 8 if (product == 255 * 127 * inner).all() else 7
