"""The steered program: the graph that serves, with inputs by which rows are steered.

A row that is not steered has the bytes of the plain graph: `Where` leaves its values as they are.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.program import (
    bind_array,
    bind_batch,
    check_precision,
    int8_weight_bits,
    open_session,
    traced_gates,
)
from service.models.spec import FOLD_LIMIT_BYTES, FloatArray, ModelSpec, Weights, is_bounded
from service.models.steered_batch import SteeredBatch, steered_batch
from service.models.steering import state_of
from service.models.step import Batch, StepProgram, Trace, zero_batch
from service.models.step_graph import CarriedGraph

_RANGES = {
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Softsign": (-1.0, 1.0),
    "Relu": (0.0, np.inf),
}
"""The range of an activation by its operator, within which a steered gate stays."""


class SteeredProgram:
    """A step program on ONNX Runtime whose rows can be steered. Holds no state between steps."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights,
        precision: Precision,
        threads: int = 1,
        *,
        spins: bool = True,
    ) -> None:
        """Compile the graph. Raises Validation for a model that cannot be steered."""
        for layer in range(len(spec.recurrent_layers)):
            state_of(spec, layer)
        check_precision(spec, weights, precision)
        graph = _SteeredGraph(spec, weights, precision, int8_weight_bits(), FOLD_LIMIT_BYTES)
        serialised = bytes(graph.build().SerializeToString())
        self._session = open_session(serialised, threads, spins=spins)
        self._spec = spec
        self.vocabulary_size = spec.vocabulary_size

    def new_batch(self, capacity: int) -> SteeredBatch:
        """Allocate a batch of `capacity` rows, all in the zero state and not steered."""
        return steered_batch(self._spec, capacity, zero_batch(self._spec, capacity))

    def step(self, batch: Batch, rows: int) -> None:
        """Feed `tokens` of the first `rows` rows; update their states, write their logits."""
        assert isinstance(batch, SteeredBatch)
        self._run(batch, rows, batch.bindings, {})

    def trace(self, batch: Batch) -> Trace:
        """Return the trace of a batch: the same graph, with its steered gates bound, too."""
        assert isinstance(batch, SteeredBatch)
        gates, outputs = traced_gates(self._spec, len(batch.tokens))
        bindings: dict[int, Any] = {}
        return Trace(lambda rows: self._run(batch, rows, bindings, outputs), gates)

    def _run(
        self,
        batch: SteeredBatch,
        rows: int,
        bindings: dict[int, Any],
        gates: Mapping[str, FloatArray],
    ) -> None:
        batch.update_tables(rows)
        binding = bindings.get(rows)
        if binding is None:
            binding = bindings[rows] = self._bind(batch, rows, gates)
        self._session.run_with_iobinding(binding)
        batch.advance(rows)

    def _bind(self, batch: SteeredBatch, rows: int, gates: Mapping[str, FloatArray]) -> Any:
        """Bind the graph to the first rows of the batch, states in place."""
        binding = bind_batch(self._session, batch, rows)
        for name, array in gates.items():
            bind_array(binding.bind_output, name, array, rows)
        for (layer, target), table in batch.tables.items():
            for name, array in table.arrays.items():
                bind_array(binding.bind_input, _input_name(layer, target, name), array, rows)
        return binding


class _SteeredGraph(CarriedGraph):
    """The graph of one step with the inputs of a `SteerTable` for each value that is steered."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._index, self._layer = -1, self._spec.recurrent_layers[0]
        self._table_inputs: list[ValueInfoProto] = []

    def add_recurrent(self, layer: LayerSpec, weights: Any, xw: str) -> str:
        """Add one step of a layer."""
        self._index, self._layer = self._index + 1, layer
        return super().add_recurrent(layer, weights, xw)

    def gate(self, name: str, x: str) -> str:
        """Steer a gate within the range of its activation, and make it an output."""
        limits = _RANGES.get(self._nodes[-1].op_type)
        return super().gate(name, self._steered(name, x, "", limits))

    def hold(self, x: str, name: str, before: str) -> str:
        """Steer a state. A product in int8 needs an h within (-1, 1), so a bounded h stays there.

        Nodes of both states read `before`, so a state is not overwritten too early: each reader of
        it comes before the node that computes it.
        """
        limits = (-1.0, 1.0) if name == "h" and is_bounded(self._layer) else None
        return self._steered(name, x, before, limits)

    def _steered(self, name: str, x: str, before: str, limits: tuple[float, float] | None) -> str:
        value = self.node("Mul", self._table_input(name, "scale"), x)
        value = self.node("Add", value, self._table_input(name, "add"))
        if before:
            kept = self.node("Mul", self._table_input(name, "keep"), before)
            value = self.node("Add", value, kept)
        if limits is not None:
            bounds = [self.constant(f"limit.{one}", np.array(one)) for one in limits]
            value = self.node("Clip", value, *bounds)
        return self.node("Where", self._table_input(name, "on"), value, x)

    def _table_input(self, target: str, name: str) -> str:
        whole = _input_name(self._index, target, name)
        kind = TensorProto.BOOL if name == "on" else TensorProto.FLOAT
        shape: list[str | int | None] = ["rows", self._layer.units]
        self._table_inputs.append(helper.make_tensor_value_info(whole, kind, shape))
        return whole

    def _add_output(self, x: str) -> None:
        self._inputs += self._table_inputs  # after those of the states, which are counted
        super()._add_output(x)


def _input_name(layer: int, target: str, name: str) -> str:
    return f"steer.{layer}.{target}.{name}"


_PROBE_STEPS, _PROBE_ROWS, _SEED = 24, 3, 29


def has_same_bytes(steered: StepProgram, served: StepProgram) -> bool:
    """Return whether two programs compute the same: some random steps, compared bit for bit."""
    batches = steered.new_batch(_PROBE_ROWS), served.new_batch(_PROBE_ROWS)
    rng = np.random.default_rng(_SEED)
    for _ in range(_PROBE_STEPS):
        tokens = rng.integers(steered.vocabulary_size, size=_PROBE_ROWS)
        for program, batch in zip((steered, served), batches, strict=True):
            batch.tokens[:] = tokens
            program.step(batch, _PROBE_ROWS)
        if batches[0].logits.tobytes() != batches[1].logits.tobytes():
            return False
    every = [batch.read(range(_PROBE_ROWS)) for batch in batches]
    return all(a.tobytes() == b.tobytes() for a, b in zip(*every, strict=True))
