"""The step program of a GPU: states stay in its memory, and every step has the same shape.

A product's library chooses how to split it by its shape, so rows of batches of different sizes
need not have the same bits. Here each step computes all rows of the program, used or not:
one shape, one choice. `check_rows_are_independent` tests what is left, at each load.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import Validation
from service.models.bundle import Precision
from service.models.device import Device
from service.models.device_states import DeviceStates, RowGraphs
from service.models.onnx_device import OnnxDevice
from service.models.program import check_precision
from service.models.spec import FOLD_LIMIT_BYTES, ModelSpec, Weights
from service.models.step import Batch, State, StateArrays
from service.models.step_graph import build_graph

_PROBE_STEPS, _SEED = 6, 17


@dataclass(frozen=True, slots=True)
class DeviceBatch(Batch):
    """A batch whose states are in the memory of a device. `states` is empty."""

    held: DeviceStates | None = None
    first: int = 0  # row of `held`

    @property
    def device_states(self) -> DeviceStates:
        """The states on the device."""
        assert self.held is not None
        return self.held

    def swap(self, a: int, b: int) -> None:
        """Exchange two rows."""
        self.tokens[[a, b]] = self.tokens[[b, a]]
        self.device_states.swap(self.first + a, self.first + b)

    def after(self, first: int) -> "DeviceBatch":
        """Return the rows from `first`, in the same memory, as a batch of its own."""
        rows = self.tokens[first:], (), self.logits[first:], self.bindings
        return DeviceBatch(*rows, self.held, self.first + first)

    def put(self, row: int, state: State | None) -> None:
        """Write a state into a row; None is the zero state."""
        self.write(row, None if state is None else state.arrays)

    def write(self, row: int, states: StateArrays | None) -> None:
        """Write the states of a row, each (width,); None are zeros."""
        self.device_states.write(self.first + row, states)

    def read(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> StateArrays:
        """Return a copy of the states of these rows, each (rows, width)."""
        return self.device_states.read(self.first + np.asarray(rows, np.int64))

    def take(self, rows: Sequence[int]) -> None:
        """Give the first rows the states that `rows` have now."""
        self.device_states.take(self.first, self.first + np.asarray(rows, np.int64))


class GpuProgram:
    """A step program with `rows` rows on a device of ONNX Runtime, in float16 or float32."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights,
        precision: Precision,
        device: OnnxDevice,
        rows: int,
        limit_bytes: int | None = None,
    ) -> None:
        """Compile the graph. Raises Validation for what this program does not compute."""
        check_gpu_model(spec, precision)
        check_precision(spec, weights, precision)
        graph = build_graph(
            *(spec, weights, precision, 8, FOLD_LIMIT_BYTES),
            selects_rows=True,
            keeps_casts=device.device is Device.CPU,
        )
        self._session = device.open_session(graph, limit_bytes)
        self._graphs = RowGraphs(device, spec.state_units)
        self._device, self._spec, self.rows = device, spec, rows
        self.vocabulary_size = spec.vocabulary_size

    def new_batch(self, capacity: int) -> DeviceBatch:
        """Allocate a batch of `capacity` rows, at most the program's, all in the zero state."""
        assert capacity <= self.rows, (capacity, self.rows)
        tokens = np.zeros(self.rows, np.int64)
        logits = np.zeros((self.rows, self.vocabulary_size), np.float32)
        held = DeviceStates(self._graphs, self.rows)
        batch = DeviceBatch(tokens[:capacity], (), logits[:capacity], {}, held)
        batch.bindings[0] = _Bound(self._session, self._device, held, tokens, logits)
        return batch

    def step(self, batch: Batch, rows: int) -> None:
        """Feed `tokens` of the first `rows` rows; update their states, write their logits.

        Those of other rows of the batch's memory are computed too, and dropped.
        """
        assert isinstance(batch, DeviceBatch)
        batch.bindings[0].step(batch.first, batch.first + rows)


class _Bound:
    """The memory of a batch, bound to the session of its program.

    ONNX Runtime copies an input from the host when it is bound, not when it is read: so tokens have
    memory on the device, which each step fills.
    """

    def __init__(
        self,
        session: Any,
        device: OnnxDevice,
        held: DeviceStates,
        tokens: npt.NDArray[np.int64],
        logits: npt.NDArray[np.float32],
    ) -> None:
        self._session, self._device, self._held = session, device, held
        self._tokens, self._logits = tokens, logits
        self._rows = len(tokens)
        self._device_tokens = device.copy_of(tokens)
        self._active = device.copy_of(np.zeros((self._rows, 1), np.bool_))
        self._range = (0, 0)
        self._computed = np.zeros_like(logits)
        self._bindings: dict[int, Any] = {}  # by the buffer that is read

    def step(self, first: int, last: int) -> None:
        """Take a step of the rows from `first` to `last`; the others keep states and logits."""
        if self._range != (first, last):
            active = np.zeros((self._rows, 1), np.bool_)
            active[first:last] = True
            self._active.update_inplace(active)
            self._range = first, last
        self._device_tokens.update_inplace(self._tokens)
        before, after = self._held.buffers()
        key = before[0].data_ptr()
        if key not in self._bindings:
            self._bindings[key] = self._bind(before, after)
        self._device.run(self._session, self._bindings[key])
        self._held.flip()
        self._logits[first:last] = self._computed[first:last]

    def _bind(self, before: tuple[Any, ...], after: tuple[Any, ...]) -> Any:
        binding, computed = self._session.io_binding(), self._computed
        binding.bind_ortvalue_input("tokens", self._device_tokens)
        binding.bind_ortvalue_input("active", self._active)
        place = computed.ctypes.data
        binding.bind_output("logits", "cpu", 0, np.float32, computed.shape, place)
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            binding.bind_ortvalue_input(f"state_{i}", old)
            binding.bind_ortvalue_output(f"new_state_{i}", new)
        return binding


def check_gpu_model(spec: ModelSpec, precision: Precision) -> None:
    """Raise Validation for a model or a precision that the program of a GPU does not compute."""
    if precision is Precision.INT8:
        raise Validation(
            "precision int8 is computed on the processor; on a GPU load the model in float16 or "
            "float32, or set CAROUSEL_DEVICE=auto"
        )
    if spec.window is not None:
        raise Validation(
            "a model that reads a window for each token is computed on the processor; set "
            "CAROUSEL_DEVICE=auto, and load it without a precision"
        )


def check_rows_are_independent(program: GpuProgram) -> None:
    """Compare rows that are given the same tokens, alone in their batch and among others.

    Raises Validation unless they have the same bits: a session that is continued in another row
    would otherwise not continue with its own numbers.
    """
    rng = np.random.default_rng(_SEED)
    tokens = rng.integers(program.vocabulary_size, size=_PROBE_STEPS)
    others = rng.integers(program.vocabulary_size, size=(_PROBE_STEPS, program.rows))
    is_probe = np.arange(program.rows) % 3 == 0
    alike, mixed = program.new_batch(program.rows), program.new_batch(program.rows)
    for token, other in zip(tokens, others, strict=True):
        alike.tokens[:] = token
        mixed.tokens[:] = np.where(is_probe, token, other)
        program.step(alike, program.rows)
        program.step(mixed, program.rows)
        bits = alike.logits.view(np.uint32)
        is_same = (bits == bits[0]).all() and (
            mixed.logits[is_probe].view(np.uint32) == bits[0]
        ).all()
        if not is_same:
            raise Validation(
                f"on this GPU a row's numbers depend on its place among {program.rows} rows, so a "
                "session would not continue with its own; set CAROUSEL_GPU_ROWS to another number, "
                "or CAROUSEL_DEVICE=cpu"
            )
