"""The int8 step program for LSTMs and GRUs on x86 processors, compiled with Numba.

ONNX Runtime runs the gates one operator at a time, and without VNNI it widens after every product.
`vnni_gemm` or `int8_gemm` and one loop for all gates take less time, and a burst of steps runs with
the GIL released. `compile` chooses.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from service.models import int4_gemm, int8_gemm, vnni_gemm
from service.models.cell import Activation
from service.models.cells import CELLS
from service.models.int8_gemm import DEPTH, ROWS, PackedKernel, padded
from service.models.spec import FOLD_LIMIT_BYTES, ModelSpec, Weights
from service.models.step import Batch, Trace, zero_batch

CALLED_KERNELS = "2e4006e7e7de7bc7"
"""Hash of the kernels that this file calls; `sampling.py` says why."""


BLOCKS_PER_THREAD = 4
"""More blocks balance the load of the threads better; fewer read the weights less often."""


def block_rows(rows: int, threads: int) -> int:
    """Return how many rows a thread takes at once, where `threads` share `rows`."""
    balanced = padded(rows // (threads * BLOCKS_PER_THREAD), ROWS)
    return max(1, min(-(-rows // threads), balanced))


def is_fusible(spec: ModelSpec) -> bool:
    """Return whether this program computes every layer: LSTM or GRU with tanh and sigmoid.

    The table of the first layer has to be small. A GRU resets after the recurrent product.
    """
    n_gates = len(CELLS[spec.recurrent_layers[0].cell].gates)
    table_bytes = 4 * spec.vocabulary_size * n_gates * spec.recurrent_layers[0].units
    return (
        spec.is_stack
        and table_bytes <= FOLD_LIMIT_BYTES
        and all(
            CELLS[layer.cell].has_int8_step
            and (layer.reset_after or not CELLS[layer.cell].has_reset_after)
            and layer.activation is Activation.TANH
            and layer.recurrent_activation is Activation.SIGMOID
            for layer in spec.recurrent_layers
        )
    )


Pack = Callable[[npt.NDArray[np.floating]], PackedKernel]


class _Layer(NamedTuple):
    """A layer's packed kernels. A bias subtracts what the zero point of 128 adds to the sums.

    The first layer's x W and bias are in the table. An LSTM's two biases are one, in `bias`.
    """

    is_gru: bool
    state: int  # index of its h in the batch's states
    recurrent: npt.NDArray[np.int8]
    recurrent_scale: npt.NDArray[np.float32]
    recurrent_bias: npt.NDArray[np.float32]  # (columns,)
    recurrent_halves: npt.NDArray[np.int8]  # empty without weights of four bits
    entry: npt.NDArray[np.int8]
    entry_halves: npt.NDArray[np.int8]
    entry_scale: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]  # (columns,)


class FusedProgram:
    """An int8 step program that Numba code can run with the GIL released, by `arguments`."""

    def __init__(
        self, spec: ModelSpec, weights: Weights, pack: Pack, pack_layer: Pack | None = None
    ) -> None:
        """Quantise and pack the weights for `int8_gemm` or for `vnni_gemm`, by its `pack`.

        `pack_layer` packs those of the recurrent layers instead. `is_fusible(spec)` must be true.
        """
        self._spec, self._pack, self._pack_layer = spec, pack, pack_layer or pack
        self.vocabulary_size = spec.vocabulary_size
        self._layers = tuple(self._layer(weights, i) for i in range(len(spec.recurrent_layers)))
        entry = weights["layers.0.kernel"].astype(np.float64)
        if spec.embedding_dim is not None:
            entry = weights["embedding"].astype(np.float64) @ entry
        self._table = (entry + self._layers[0].bias).astype(np.float32)
        self._output = self._output_planes(weights)

    def _layer(self, weights: Weights, i: int) -> _Layer:
        layers = self._spec.recurrent_layers
        columns = len(CELLS[layers[i].cell].gates) * layers[i].units
        recurrent = self._pack_layer(weights[f"layers.{i}.recurrent_kernel"])
        kernel = weights[f"layers.{i}.kernel"] if i else np.zeros((1, 1), np.float32)
        entry = self._pack_layer(kernel)
        given = weights.get(f"layers.{i}.bias", np.zeros(columns)).reshape(-1, columns)
        bias, recurrent_bias = given[0], -recurrent.zero[:columns]
        if layers[i].cell == "gru":
            recurrent_bias = recurrent_bias + (given[1] if len(given) > 1 else 0.0)
        else:
            bias, recurrent_bias = bias + recurrent_bias, np.zeros(0)
        if i:
            bias = bias - entry.zero[:columns]
        return _Layer(
            is_gru=layers[i].cell == "gru",
            state=sum(len(CELLS[below.cell].states) for below in layers[:i]),
            recurrent=recurrent.bytes,
            recurrent_scale=recurrent.scale,
            recurrent_bias=recurrent_bias.astype(np.float32),
            recurrent_halves=recurrent.halves,
            entry=entry.bytes,
            entry_halves=entry.halves,
            entry_scale=entry.scale,
            bias=bias.astype(np.float32),
        )

    def _output_planes(self, weights: Weights) -> tuple[npt.NDArray[Any], ...]:
        """Return bytes and scale of the output kernel and of its rounding error, and the bias.

        The logits' weights have two bytes each, because tokens are sampled from the logits.
        """
        kernel = weights["output.kernel"]
        rows, columns = kernel.shape
        coarse = self._pack(kernel)
        fine = self._pack((kernel - coarse.kernel()[:rows, :columns]).astype(np.float32))
        bias = weights.get("output.bias", np.zeros(columns)) - (coarse.zero + fine.zero)[:columns]
        planes = coarse.bytes, coarse.scale, fine.bytes, fine.scale
        return *planes, bias.astype(np.float32), np.zeros_like(coarse.halves)

    def new_batch(self, capacity: int) -> Batch:
        """Allocate a batch of `capacity` rows, all in the zero state."""
        return zero_batch(self._spec, capacity)

    def step(self, batch: Batch, rows: int) -> None:
        """Feed `tokens` of the first `rows` rows; update their states, write their logits."""
        arguments = batch.bindings.get(0)
        if arguments is None:
            arguments = batch.bindings[0] = self.arguments(batch)
        step_rows(arguments, 0, rows)

    def trace(self, batch: Batch) -> Trace:
        """Return the trace of a batch."""
        arguments, gates = self._arguments(batch, len(batch.tokens)), []
        for layer, (*_, block) in zip(self._spec.recurrent_layers, arguments[5], strict=True):
            names = CELLS[layer.cell].activated
            parts = np.split(block, len(names), axis=1)
            gates.append(dict(zip(names, parts, strict=True)))

        def step(rows: int) -> None:
            step_rows(arguments, 0, rows)

        return Trace(step, tuple(gates))

    def arguments(self, batch: Batch) -> tuple[Any, ...]:
        """Return the arguments of `step_rows` for a batch: tokens, states and logits come first."""
        return self._arguments(batch, 0)

    def _arguments(self, batch: Batch, traced_rows: int) -> tuple[Any, ...]:
        """Return the same, with room for the gates of `traced_rows`: none, or each of the batch."""
        capacity = len(batch.tokens)
        scratch = tuple(
            (
                np.full((capacity, padded(layer.units, DEPTH)), 128, np.uint8),
                np.zeros((capacity, len(packed.recurrent_scale)), np.int32),
                np.zeros((capacity, len(packed.entry_scale)), np.int32),
                np.zeros((traced_rows, len(packed.bias)), np.float32),
            )
            for layer, packed in zip(self._spec.recurrent_layers, self._layers, strict=True)
        )
        return (
            batch.tokens,
            batch.states,
            batch.logits,
            self._table,
            self._layers,
            scratch,
            self._output,
            np.zeros((2, capacity, len(self._output[1])), np.int32),
        )


# tanh(x) ≈ x P(x²) / Q(x²) on [-9, 9], fitted by reweighted least squares at Chebyshev points, with
# an error of at most 4e-7 in float32. Beyond 9, tanh is ±1 to the last bit but one.
_P = tuple(
    map(np.float32, (0.9999999064, 0.1337320188, 3.486586733e-3, 2.04719049e-5, 1.318431669e-8))
)
_Q = tuple(map(np.float32, (1.0, 0.4670649875, 2.584199794e-2, 3.271393076e-4, 7.702703662e-7)))
_EDGE, _ONE, _HALF = np.float32(9.0), np.float32(1.0), np.float32(0.5)
_STEPS, _ZERO_POINT = np.float32(127.0), np.float32(128.0)


@njit(nogil=True, inline="always", error_model="numpy")
def _tanh(x):  # type: ignore[no-untyped-def]
    x = min(max(x, -_EDGE), _EDGE)
    t = x * x
    p = (((_P[4] * t + _P[3]) * t + _P[2]) * t + _P[1]) * t + _P[0]
    q = (((_Q[4] * t + _Q[3]) * t + _Q[2]) * t + _Q[1]) * t + _Q[0]
    return min(max(x * p / q, -_ONE), _ONE)


@njit(nogil=True, inline="always", error_model="numpy")
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return _HALF * _tanh(_HALF * x) + _HALF


@njit(nogil=True, cache=True, error_model="numpy")
def _add_product(base, sums, scale, out):  # type: ignore[no-untyped-def]
    """Write base + scale * sums into out."""
    for j in range(len(out)):
        out[j] = base[j] + np.float32(sums[j]) * scale[j]


@njit(nogil=True, cache=True, error_model="numpy")
def _update_lstm(z, h, c):  # type: ignore[no-untyped-def]
    """Update h and c of one row by the equations of `cells.lstm`; overwrites z.

    The compiler vectorises each of the short loops, but not one loop over all.
    """
    n = len(h)
    for j in range(2 * n):
        z[j] = _sigmoid(z[j])
    for j in range(n):
        z[2 * n + j] = _tanh(z[2 * n + j])
        z[3 * n + j] = _sigmoid(z[3 * n + j])
    for j in range(n):
        c[j] = z[n + j] * c[j] + z[j] * z[2 * n + j]
    for j in range(n):
        h[j] = z[3 * n + j] * _tanh(c[j])


@njit(nogil=True, cache=True, error_model="numpy")
def _update_gru(x, u, h):  # type: ignore[no-untyped-def]
    """Update h of one row by the equations of `cells.gru`, reset after; overwrites u.

    x is x W + b and u is h U + b'.
    """
    n = len(h)
    for j in range(2 * n):
        u[j] = _sigmoid(x[j] + u[j])
    for j in range(n):
        u[2 * n + j] = _tanh(x[2 * n + j] + u[n + j] * u[2 * n + j])
    for j in range(n):
        h[j] = u[j] * h[j] + (_ONE - u[j]) * u[2 * n + j]


@njit(nogil=True, cache=True, error_model="numpy")
def _quantise(h, out):  # type: ignore[no-untyped-def]
    for j in range(len(h)):
        out[j] = np.uint8(np.int32(np.rint(h[j] * _STEPS) + _ZERO_POINT))


@njit(nogil=True, cache=True)
def _multiply(x, kernel, halves, z, first, last):  # type: ignore[no-untyped-def]
    """Multiply by the kernel that has packed the bytes; the compiler drops the other branch."""
    if kernel.ndim == 3:
        if len(halves) > 0 and last - first <= int4_gemm.MOST_ROWS:
            int4_gemm.multiply(x, halves, z, first, last)
        else:
            vnni_gemm.multiply(x, kernel, z, first, last)
    else:
        int8_gemm.multiply(x, kernel, z, first, last)


@njit(nogil=True, cache=True, error_model="numpy")
def step_rows(arguments, first, last):  # type: ignore[no-untyped-def]
    """Run one step of the rows from `first` to `last`. Disjoint ranges may run at once.

    Where the scratch has room for gates they are left there. One kernel does both: a kernel of its
    own for traces would be compiled at the first inspection, with the GIL held for seconds.
    """
    tokens, states, logits, table, layers, scratch, output, output_sums = arguments
    for i in range(len(layers)):
        layer, (x, sums, entry_sums, gates) = layers[i], scratch[i]
        h = states[layer.state]
        for row in range(first, last):
            _quantise(h[row], x[row])
        _multiply(x, layer.recurrent, layer.recurrent_halves, sums, first, last)
        if i > 0:
            below = scratch[i - 1][0]
            for row in range(first, last):
                _quantise(states[layers[i - 1].state][row], below[row])
            _multiply(below, layer.entry, layer.entry_halves, entry_sums, first, last)
        z, u = np.empty(len(layer.bias), np.float32), np.empty(len(layer.bias), np.float32)
        for row in range(first, last):
            if i == 0:
                entry = table[tokens[row]]
            else:
                _add_product(layer.bias, entry_sums[row], layer.entry_scale, z)
                entry = z
            if layer.is_gru:
                _add_product(layer.recurrent_bias, sums[row], layer.recurrent_scale, u)
                _update_gru(entry, u, h[row])
                if len(gates) > 0:
                    gates[row] = u
            else:
                _add_product(entry, sums[row], layer.recurrent_scale, z)
                _update_lstm(z, h[row], states[layer.state + 1][row])
                if len(gates) > 0:
                    gates[row] = z
    coarse, coarse_scale, fine, fine_scale, bias, no_halves = output
    top, x = states[layers[len(layers) - 1].state], scratch[len(layers) - 1][0]
    for row in range(first, last):
        _quantise(top[row], x[row])
    _multiply(x, coarse, no_halves, output_sums[0], first, last)
    _multiply(x, fine, no_halves, output_sums[1], first, last)
    for row in range(first, last):
        _add_product(bias, output_sums[0, row], coarse_scale, logits[row])
        _add_product(logits[row], output_sums[1, row], fine_scale, logits[row])
