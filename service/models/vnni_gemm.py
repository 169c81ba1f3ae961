"""Matrix products of unsigned by signed bytes for x86 processors with VNNI.

Their instruction `vpdpbusd` adds four products of bytes to a sum of 32 bits, so any weights of
8 bits give exact sums. A column block is 32 columns; its bytes are in the order in which the
kernel reads them: (column block, k / 4, 32 columns, 4 k). Vectors of 512 bits, and of 256 bits
where a processor has no longer ones, read one order and compute the same sums.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import binding, ir
from numba import njit
from numba.core import cgutils

from service.models.int8_gemm import PackedKernel, padded
from service.models.simd_tile import GROUP, I64, Tile, address, tile_function

CALLED_KERNELS = "ba411f15224c707e"
"""Hash of the kernels that this file calls; `sampling.py` says why."""

COLUMNS, DEPTH = 32, 32
ROWS = 8
"""Rows of the largest tile; the smallest has one."""


def pack(kernel: npt.NDArray[np.floating]) -> PackedKernel:
    """Quantise a kernel, (inputs, columns), by columns to 8 bits, in the tile's layout."""
    inputs, columns = kernel.shape
    w = np.zeros((padded(inputs, DEPTH), padded(columns, COLUMNS)), np.float64)
    w[:inputs, :columns] = kernel
    scale = np.abs(w).max(axis=0) / 127.0
    scale[scale == 0.0] = 1.0
    return arranged(np.rint(w / scale), scale)


def arranged(q: npt.NDArray[np.floating], scale: npt.NDArray[np.floating]) -> PackedKernel:
    """Arrange quantised weights, (inputs, columns), in the tile's layout."""
    shape = (q.shape[1] // COLUMNS, len(q) // GROUP, GROUP * COLUMNS)
    return PackedKernel.arranged(q, scale, shape)


def lanes_here() -> int:
    """Return how many sums a vector of this processor has: 16, or 8 without AVX-512."""
    return 16 if binding.get_host_cpu_features().get("avx512vnni") else 8


class DotTile(Tile):
    """A tile whose products are `dot`: the instruction `vpdpbusd`."""

    def __init__(self, builder: ir.IRBuilder, rows: int, lanes: int, chains: int) -> None:
        super().__init__(builder, rows, lanes, chains)
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        self.dot = self.instruction(name, self.dwords, self.dwords, self.bytes, self.bytes)


class _Tile(DotTile):
    """The tile of some rows by one column block, in turns of `chains` groups."""

    def generate(self, x, x_stride, block, z, z_stride, depth) -> None:  # type: ignore[no-untyped-def]
        """Generate the product."""
        b, vectors, turn = self.builder, COLUMNS // self.lanes, GROUP * self.chains
        totals = self.totals(self.rows, vectors, self.chains)
        with cgutils.for_range(b, b.udiv(depth, I64(turn))) as loop:
            rows = self.starts(x, x_stride, b.mul(loop.index, I64(turn)))
            weights = b.gep(block, [b.mul(loop.index, I64(turn * COLUMNS))])
            for k in range(self.chains):
                columns = [
                    self.load(weights, GROUP * (COLUMNS * k + self.lanes * v), self.bytes)
                    for v in range(vectors)
                ]
                for r, row in enumerate(rows):
                    inputs = self.spread(row, GROUP * k)
                    for v in range(vectors):
                        total = totals[r, v, k]
                        b.store(b.call(self.dot, [b.load(total), inputs, columns[v]]), total)
        for r in range(self.rows):
            for v in range(vectors):
                whole = b.load(totals[r, v, 0])
                for k in range(1, self.chains):
                    whole = b.add(whole, b.load(totals[r, v, k]))
                self.store(whole, z, z_stride, r, v)


_tile = tile_function(_Tile)


def multiply_by(lanes: int) -> Callable[..., None]:
    """Return `multiply` for vectors of `lanes` sums: 16, or 8, of which there are half as many."""
    most, many, of_two, of_one = (ROWS, ROWS // 2, 2, 4) if lanes == 16 else (3, 3, 1, 2)

    @njit(nogil=True, cache=True)
    def multiply(x, block_bytes, z, first, last):  # type: ignore[no-untyped-def]
        stride, columns = x.shape[1], z.shape[1]
        size = block_bytes.shape[1] * block_bytes.shape[2]
        for block in range(len(block_bytes)):
            weights = address(block_bytes, block * size)
            row = first
            while row < last:
                inputs = address(x, row * stride)
                out = address(z, 4 * (row * columns + block * COLUMNS))
                if row + most <= last:
                    _tile(most, lanes, 1, inputs, stride, weights, out, columns, stride)
                    row += most
                elif row + many <= last:
                    _tile(many, lanes, 1, inputs, stride, weights, out, columns, stride)
                    row += many
                elif row + 2 <= last:
                    _tile(2, lanes, of_two, inputs, stride, weights, out, columns, stride)
                    row += 2
                else:
                    _tile(1, lanes, of_one, inputs, stride, weights, out, columns, stride)
                    row += 1

    return multiply


multiply = multiply_by(lanes_here())
"""Write `x @ packed kernel` into z, for the rows from `first` to `last`.

x is (rows, depth) uint8 with depth a multiple of 32, z (rows, columns) int32.
"""
