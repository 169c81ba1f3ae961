"""The step program of models that read a window from a zero state for each token."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.cells import CELLS
from service.models.layers import SelectStep, StepOf
from service.models.mask import masked_tokens
from service.models.program import int8_weight_bits, open_session
from service.models.spec import FOLD_LIMIT_BYTES, FloatArray, ModelSpec, Weights
from service.models.step import Batch, State, zero_batch
from service.models.window import BATCH_NUMBERS, Padding, read_window
from service.models.window_graph import build_window_graph


class WindowProgram:
    """A step program whose state begins with the window: a float32 array of `length + 1` numbers.

    They are token id + 1, and 0 for none, newest last. The last number of a sliding window is how
    many tokens it may hold, 0 for `length`. Where the spec `carries_window` the states of the
    layers follow, and the last number is how many of the tokens they have read. A step of a row
    costs as many steps of the network as the row of the batch with most tokens to read has of
    them, where the pads before them can be left out.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights,
        threads: int = 1,
        fold_limit_bytes: int = FOLD_LIMIT_BYTES,
        batch_numbers: int = BATCH_NUMBERS,
        *,
        spins: bool = True,
    ) -> None:
        """Compile the graph, and compute the states after the pads of a window.

        `batch_numbers` limits the numbers of the widest layer that are in memory at once.
        """
        assert spec.window is not None
        bits = int8_weight_bits()
        graph = build_window_graph(spec, weights, Precision.FLOAT32, bits, fold_limit_bytes)
        self._session = open_session(graph, threads, has_patterns=False, spins=spins)
        self._spec, self.window = spec, spec.window
        self.vocabulary_size = spec.vocabulary_size
        gates = [len(CELLS[layer.cell].gates) * layer.units for layer in spec.recurrent_layers]
        self._widest, self._batch_numbers = max(*gates, *spec.widths[1:]), batch_numbers
        pad = spec.vocabulary_size if self.window.pad is None else self.window.pad
        is_masked = bool(masked_tokens(spec, weights)[pad]) or self.window.padding is Padding.NONE
        self._leaves_out_pads = _can_leave_out_pads(spec, is_masked=is_masked)
        self._after_pads: list[FloatArray] | None = None
        if self._leaves_out_pads and not is_masked:
            self._after_pads = self._states_after_pads(pad)

    def new_batch(self, capacity: int) -> Batch:
        """Allocate a batch of `capacity` rows, all with an empty window."""
        return zero_batch(self._spec, capacity)

    def step(self, batch: Batch, rows: int) -> None:
        """Append `tokens` of the first `rows` rows to their windows; write their logits."""
        state, *carried = (array[:rows] for array in batch.states)
        held, length = state[:, :-1], self.window.length
        fits = held[:, :1] == 0  # (rows, 1)
        n_before = (held > 0).sum(axis=1) if carried and fits.any() else None
        kept = held[~fits[:, 0]] if self.window.keeps_first else None
        held[:, :-1] = held[:, 1:].copy()
        held[:, -1] = batch.tokens[:rows] + 1
        if kept is not None:
            held[~fits[:, 0]] = kept
        if self.window.is_sliding:
            limit = state[:, -1]
            limit = np.where(limit == 0, length, limit)
            held[np.arange(length) < length - limit[:, None]] = 0.0
        unread = held
        if n_before is not None:
            n_unread = n_before + 1 - state[:, -1]
            is_read = fits & (np.arange(length) < length - n_unread[:, None])
            unread = np.where(is_read, 0.0, held)
            state[:, -1] = np.minimum(n_before + 1, length)
        elif carried:
            state[:, -1] = length
        steps = length
        if self._leaves_out_pads:
            steps = int((unread > 0).any(axis=0).sum())
        ids = read_window(unread[:, length - steps :], self.window, self.vocabulary_size)
        size = max(1, self._batch_numbers // (steps * self._widest))
        for first in range(0, rows, size):
            part = slice(first, min(rows, first + size))
            if n_before is None:
                starts = self._starts(length - steps, part.stop - first)
            else:
                starts = [np.where(fits[part], states[part], 0.0) for states in carried]
            ends = self._run(np.ascontiguousarray(ids[part].T), starts, batch.logits[part])
            for states, end in zip(carried, ends, strict=False):
                states[part] = end

    def prefill(self, state: State | None, prompt: Sequence[int], n_sampled: int = 0) -> State:
        """Return the state that has read all tokens of a prompt but the last.

        The first prompt of a sliding window, without the tokens that were sampled after it, sets
        how many tokens the window holds.
        """
        length, position = self.window.length, state.position if state else 0
        if state is None:
            arrays = [np.zeros(units, np.float32) for units in self._spec.state_units]
        else:
            arrays = [state.arrays[0].copy(), *state.arrays[1:]]
        array = arrays[0]
        n_held = int((array[:-1] > 0).sum())
        if self.window.is_sliding and not array[-1]:
            array[-1] = min(length, n_held + len(prompt) - n_sampled)
        ids = np.asarray(prompt[:-1], np.float32) + 1
        read = ids[: length - n_held] if self.window.keeps_first else ids
        array[:-1] = np.concatenate([array[:-1], read])[-length:]
        if self.window.is_sliding and array[-1]:
            array[: length - int(array[-1])] = 0.0
        return State(position + len(ids), tuple(arrays))

    def _starts(self, pads: int, rows: int) -> list[FloatArray]:
        """The states of `rows` rows after the pads that are left out."""
        if self._after_pads is None:
            return [np.zeros((rows, units), np.float32) for units in self._spec.layer_state_units]
        return [np.repeat(states[pads : pads + 1], rows, axis=0) for states in self._after_pads]

    def _states_after_pads(self, pad: int) -> list[FloatArray]:
        """Compute the states after 0, 1, … pads: (length + 1, units) of each."""
        length = self.window.length
        table = [
            np.zeros((length + 1, units), np.float32) for units in self._spec.layer_state_units
        ]
        logits = np.empty((1, self.vocabulary_size), np.float32)
        for n in range(length):
            before = [states[n : n + 1].copy() for states in table]
            after = self._run(np.full((1, 1), pad), before, logits)
            for states, state in zip(table, after, strict=True):
                states[n + 1] = state[0]
        return table

    def _run(
        self, tokens: npt.NDArray[np.int64], starts: Sequence[FloatArray], logits: FloatArray
    ) -> list[Any]:
        """Run the graph; write the logits, return the states after the last step."""
        binding = self._session.io_binding()
        binding.bind_cpu_input("tokens", tokens)
        for i, start in enumerate(starts):
            binding.bind_cpu_input(f"start_{i}", start)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        for i in range(len(starts)):
            binding.bind_output(f"end_{i}")
        self._session.run_with_iobinding(binding)
        return [output.numpy() for output in binding.get_outputs()[1:]]


def _can_leave_out_pads(spec: ModelSpec, *, is_masked: bool) -> bool:
    """Whether the logits follow from the tokens and the states after the pads before them."""
    assert spec.window is not None
    for i, layer in enumerate(spec.layers):
        if isinstance(layer, LayerSpec):
            if layer.go_backwards and not is_masked:
                return False
        elif layer.reads_whole_window:
            return False
        elif isinstance(layer, SelectStep) and layer.step is StepOf.FIRST:
            j = spec.inputs_of(i)[0] - 1
            read = spec.layers[j] if j >= 0 else layer
            if not (isinstance(read, LayerSpec) and read.go_backwards):
                return False
    return spec.window.padding is not Padding.RIGHT
