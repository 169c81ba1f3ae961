"""Matrix products of unsigned by signed bytes for x86 processors with AVX2 and without VNNI.

Their only instruction for such products, `vpmaddubsw`, adds two neighbours in 16 bits with
saturation, and a general kernel has to widen after each: two multiplications for 32 products. Here
the weights are quantised so that a sum of 16 products fits 16 bits (`pack`), and the kernel widens
once in eight: 1.125 multiplications for 32 products, with exact results.

A column block is 16 columns; its bytes are in the order in which the kernel reads them:
(column block, k / 32, 8 groups of four k, 2 vectors, 8 columns, 4 k).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit
from numba.core import cgutils

from service.models.simd_tile import GROUP, I16, I64, Tile, address, tile_function

CALLED_KERNELS = "ba411f15224c707e"
"""Hash of the kernels that this file calls; `sampling.py` says why."""

COLUMNS, DEPTH, VECTORS, LANES = 16, 32, 2, 8
ROWS = 4
"""Rows of the larger tile; the smaller has one."""

_LARGEST_SUM = 128  # of weights of one sign in 16 bits: 255 * 128 < 2**15


@dataclass(frozen=True, slots=True)
class PackedKernel:
    """A quantised kernel in the tile's layout: x @ kernel = sums of bytes * scale - zero."""

    bytes: npt.NDArray[np.int8]  # (column blocks, …)
    scale: npt.NDArray[np.float32]  # (columns,)
    zero: npt.NDArray[np.float64]  # (columns,), what the zero point of 128 contributes
    halves: npt.NDArray[np.int8] = field(  # of four bits, in the layout of `int4_gemm`
        default_factory=lambda: np.zeros((0, 0), np.int8)
    )

    @classmethod
    def arranged(
        cls, q: npt.NDArray[np.floating], scale: npt.NDArray[np.floating], shape: tuple[int, ...]
    ) -> "PackedKernel":
        """Arrange quantised weights, (inputs, columns), in `shape`: column blocks come first.

        The bytes are in the order (column block, k / 4, columns of a block, 4 k).
        """
        blocks = q.astype(np.int8).reshape(len(q) // GROUP, GROUP, shape[0], -1)
        return cls(
            bytes=np.ascontiguousarray(blocks.transpose(2, 0, 3, 1)).reshape(shape),
            scale=(scale / 127.0).astype(np.float32),
            zero=128.0 / 127.0 * scale * q.sum(axis=0),
        )

    @property
    def columns(self) -> int:
        """Number of columns, padded to whole blocks."""
        return len(self.scale)

    def kernel(self) -> npt.NDArray[np.float64]:
        """Return the dequantised kernel: (inputs, columns), padded to whole blocks."""
        blocks = self.bytes.reshape(len(self.bytes), -1, self.columns // len(self.bytes), GROUP)
        columns = blocks.transpose(1, 3, 0, 2).reshape(-1, self.columns)
        return columns * (127.0 * self.scale.astype(np.float64))


def padded(n: int, whole: int) -> int:
    """Round up to a multiple of `whole`."""
    return -(-n // whole) * whole


def pack(kernel: npt.NDArray[np.floating]) -> PackedKernel:
    """Quantise a kernel, (inputs, columns), by columns, in the tile's layout.

    A column's scale is the smallest with which every weight fits 8 bits and, of the 16 weights that
    share a 16-bit sum, those of one sign add up to at most 128: 255 * 128 < 2**15.
    """
    inputs, columns = kernel.shape
    w = np.zeros((padded(inputs, DEPTH), padded(columns, COLUMNS)), np.float64)
    w[:inputs, :columns] = kernel
    scale = np.maximum(np.abs(w).max(axis=0) / 127.0, _sums(w).max(axis=0) / _LARGEST_SUM)
    scale[scale == 0.0] = 1.0
    q = np.rint(w / scale)
    while (wide := _sums(q).max(axis=0) > _LARGEST_SUM).any():  # rounding may add a little
        scale[wide] *= 1.005
        q[:, wide] = np.rint(w[:, wide] / scale[wide])
    return PackedKernel.arranged(q, scale, (w.shape[1] // COLUMNS, -1))


def _sums(w: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the absolute sums of the weights of one sign per 16-bit lane: (lanes, columns)."""
    lanes = w.reshape(len(w) // DEPTH, DEPTH // GROUP, 2, 2, -1)  # block, group, pair, k, column
    positive, negative = np.maximum(lanes, 0.0), np.maximum(-lanes, 0.0)
    both = np.stack([positive.sum(axis=(1, 3)), negative.sum(axis=(1, 3))])
    return both.reshape(-1, w.shape[1])


class _Tile(Tile):
    """The tile of some rows by one column block, in turns of DEPTH bytes."""

    def __init__(self, builder: ir.IRBuilder, rows: int, lanes: int, chains: int) -> None:
        super().__init__(builder, rows, lanes, chains)
        self._words = ir.VectorType(I16, 2 * LANES)
        self._multiply = self.instruction(
            "llvm.x86.avx2.pmadd.ub.sw", self._words, self.bytes, self.bytes
        )
        self._widen = self.instruction(
            "llvm.x86.avx2.pmadd.wd", self.dwords, self._words, self._words
        )

    def generate(self, x, x_stride, block, z, z_stride, depth) -> None:  # type: ignore[no-untyped-def]
        """Generate the product."""
        b = self.builder
        totals = self.totals(self.rows, VECTORS)
        with cgutils.for_range(b, depth) as loop:
            rows = self.starts(x, x_stride, b.mul(loop.index, I64(DEPTH)))
            weights = b.gep(block, [b.mul(loop.index, I64(DEPTH * COLUMNS))])
            for place, words in self._sixteen(rows, weights).items():
                ones = ir.Constant(self._words, [1] * 16)
                total = b.add(b.load(totals[place]), b.call(self._widen, [words, ones]))
                b.store(total, totals[place])
        for (r, v), total in totals.items():
            self.store(b.load(total), z, z_stride, r, v)

    def _sixteen(self, rows, weights):  # type: ignore[no-untyped-def]
        """Sum 16 products in 16 bits, for each row and vector of the tile."""
        b = self.builder
        sums: dict[tuple[int, ...], Any] = {}
        for group in range(DEPTH // GROUP):
            columns = [
                self.load(weights, 32 * (VECTORS * group + v), self.bytes) for v in range(VECTORS)
            ]
            for r, row in enumerate(rows):
                inputs = self.spread(row, GROUP * group)
                for v in range(VECTORS):
                    products = b.call(self._multiply, [inputs, columns[v]])
                    sums[r, v] = b.add(sums[r, v], products) if (r, v) in sums else products
        return sums


_tile = tile_function(_Tile)


@njit(nogil=True, cache=True)
def multiply(x, block_bytes, z, first, last):  # type: ignore[no-untyped-def]
    """Write `x @ packed kernel` into z, for the rows from `first` to `last`.

    x is (rows, depth) uint8 with depth a multiple of 32, z (rows, columns) int32.
    """
    stride, columns = x.shape[1], z.shape[1]
    depth = stride // DEPTH
    for block in range(len(block_bytes)):
        weights = address(block_bytes, block * block_bytes.shape[1])
        row = first
        while row + ROWS <= last:
            inputs = address(x, row * stride)
            out = address(z, 4 * (row * columns + block * COLUMNS))
            _tile(ROWS, LANES, 1, inputs, stride, weights, out, columns, depth)
            row += ROWS
        while row < last:
            inputs = address(x, row * stride)
            out = address(z, 4 * (row * columns + block * COLUMNS))
            _tile(1, LANES, 1, inputs, stride, weights, out, columns, depth)
            row += 1
