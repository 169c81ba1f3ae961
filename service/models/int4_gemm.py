"""Matrix products with weights of four bits, for one or two rows on x86 processors with VNNI.

A row alone reads every weight from memory for one product each, so half the bytes take less time.
A weight is q * m * scale: q has four bits, and m is a whole number that 32 neighbours of a column
share. The products q * m fit eight bits, so `vnni_gemm` computes the same sums for more rows.

A column block is 32 columns; it has, for each 32 k: (k / 4, 16 columns, 4 k) bytes, the low halves
of which are columns 0 to 15 and the high halves columns 16 to 31, and then m of the 32 columns.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit
from numba.core import cgutils

from service.models.int8_gemm import PackedKernel, padded
from service.models.simd_tile import GROUP, I8, I16, I64, address, tile_function
from service.models.vnni_gemm import COLUMNS, DEPTH, DotTile, arranged, lanes_here

CALLED_KERNELS = "ba411f15224c707e"
"""Hash of the kernels that this file calls; `sampling.py` says why."""

MOST_ROWS = 2
"""From three rows on the arithmetic takes longer than reading the weights."""

_MAX_WEIGHT, _MAX_FACTOR = 7, 18  # 7 * 18 <= 127
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)  # of the largest weight, at which others are clipped


def pack(kernel: npt.NDArray[np.floating]) -> PackedKernel:
    """Quantise a kernel, (inputs, columns), to four bits, in the layouts of both kernels."""
    inputs, columns = kernel.shape
    w = np.zeros((padded(inputs, DEPTH), padded(columns, COLUMNS)), np.float64)
    w[:inputs, :columns] = kernel
    scale = np.abs(w).max(axis=0) / (_MAX_WEIGHT * _MAX_FACTOR)
    scale[scale == 0.0] = 1.0
    parts = (w / scale).reshape(-1, DEPTH, w.shape[1])
    q, m = _quantise(parts)
    packed = arranged((q * m).reshape(w.shape), scale)
    return replace(packed, halves=_halves(q.astype(np.int64), m.astype(np.uint8)))


def _quantise(
    parts: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return q, (parts, 32, columns), and m, (parts, 1, columns): those of the least error."""
    largest = np.abs(parts).max(axis=1, keepdims=True) / _MAX_WEIGHT
    q, m = np.zeros_like(parts), np.ones_like(largest)
    least = np.full_like(largest, np.inf)
    for share in _SHARES:
        factor = np.clip(np.rint(share * largest), 1, _MAX_FACTOR)
        rounded = np.clip(np.rint(parts / factor), -_MAX_WEIGHT, _MAX_WEIGHT)
        error = ((rounded * factor - parts) ** 2).sum(axis=1, keepdims=True)
        q = np.where(error < least, rounded, q)
        m = np.where(error < least, factor, m)
        least = np.minimum(error, least)
    return q, m


def _halves(q: npt.NDArray[np.int64], m: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Arrange q and m by column blocks: (column blocks, bytes)."""
    n, depth, columns = q.shape
    bits = (q & 15).astype(np.uint8)
    pairs = bits.reshape(n, depth // GROUP, GROUP, columns // COLUMNS, 2, COLUMNS // 2)
    whole = pairs[:, :, :, :, 0] | (pairs[:, :, :, :, 1] << 4)  # part, k / 4, 4 k, block, column
    weights = whole.transpose(3, 0, 1, 4, 2).reshape(columns // COLUMNS, n, -1)
    factors = m.reshape(n, columns // COLUMNS, COLUMNS).transpose(1, 0, 2)
    blocks = np.concatenate([weights, factors], axis=2)
    return np.ascontiguousarray(blocks.reshape(len(blocks), -1)).view(np.int8)


class _Tile(DotTile):
    """The tile of one or two rows by one column block, in turns of DEPTH bytes."""

    def generate(self, x, x_stride, block, z, z_stride, depth) -> None:  # type: ignore[no-untyped-def]
        """Generate the product."""
        b, vectors = self.builder, COLUMNS // self.lanes
        totals = self.totals(self.rows, vectors)
        factors = DEPTH * COLUMNS // 2  # where the factors begin
        with cgutils.for_range(b, b.udiv(depth, I64(DEPTH))) as loop:
            rows = self.starts(x, x_stride, b.mul(loop.index, I64(DEPTH)))
            part = b.gep(block, [b.mul(loop.index, I64(factors + COLUMNS))])
            sums = self._sixteenfold(rows, part)
            for v in range(vectors):
                bytes_ = self.load(part, factors + self.lanes * v, ir.VectorType(I8, self.lanes))
                factor = b.sext(bytes_, self.dwords)
                for r in range(self.rows):
                    whole = b.ashr(sums[r, v], ir.Constant(self.dwords, [4] * self.lanes))
                    b.store(b.add(b.load(totals[r, v]), b.mul(whole, factor)), totals[r, v])
        for (r, v), total in totals.items():
            self.store(b.load(total), z, z_stride, r, v)

    def _sixteenfold(self, rows, part):  # type: ignore[no-untyped-def]
        """Sum 32 products, each 16 times what it is: a weight is the upper half of its byte."""
        b, vectors = self.builder, COLUMNS // self.lanes
        words = ir.VectorType(I16, 2 * self.lanes)
        upper = ir.Constant(self.bytes, [-16] * (GROUP * self.lanes))
        four = ir.Constant(words, [4] * (2 * self.lanes))
        zero = ir.Constant(self.dwords, [0] * self.lanes)
        sums = {(r, v): zero for r in range(self.rows) for v in range(vectors)}
        for k in range(DEPTH // GROUP):
            inputs = [self.spread(row, GROUP * k) for row in rows]
            for v in range(vectors // 2):
                both = self.load(part, GROUP * (COLUMNS // 2 * k + self.lanes * v), self.bytes)
                low = b.bitcast(b.shl(b.bitcast(both, words), four), self.bytes)
                for place, bits in ((v, low), (v + vectors // 2, both)):
                    weights = b.and_(bits, upper)
                    for r, spread in enumerate(inputs):
                        sums[r, place] = b.call(self.dot, [sums[r, place], spread, weights])
        return sums


_tile = tile_function(_Tile)


def multiply_by(lanes: int) -> Callable[..., None]:
    """Return `multiply` for vectors of `lanes` sums: 16 or 8."""

    @njit(nogil=True, cache=True)
    def multiply(x, halves, z, first, last):  # type: ignore[no-untyped-def]
        stride, columns = x.shape[1], z.shape[1]
        for block in range(len(halves)):
            weights = address(halves, block * halves.shape[1])
            inputs = address(x, first * stride)
            out = address(z, 4 * (first * columns + block * COLUMNS))
            if last - first == 2:
                _tile(2, lanes, 1, inputs, stride, weights, out, columns, stride)
            else:
                _tile(1, lanes, 1, inputs, stride, weights, out, columns, stride)

    return multiply


multiply = multiply_by(lanes_here())
"""Write `x @ packed kernel` into z, for the one or two rows from `first` to `last`.

The sums are those of `vnni_gemm.multiply` with the other layout.
"""
