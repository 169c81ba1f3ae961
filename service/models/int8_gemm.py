"""Matrix products of unsigned by signed bytes for x86 processors with AVX2 and without VNNI.

Their only instruction for such products, `vpmaddubsw`, adds two neighbours in 16 bits with
saturation, and a general kernel has to widen after each: two multiplications for 32 products. Here
the weights are quantised so that a sum of 16 products fits 16 bits (`pack`), and the kernel widens
once in eight: 1.125 multiplications for 32 products, with exact results.

A column block is 16 columns; its bytes are in the order in which the kernel reads them:
(column block, k / 32, 8 groups of four k, 2 vectors, 8 columns, 4 k).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

COLUMNS, DEPTH, GROUP, VECTORS, LANES = 16, 32, 4, 2, 8
ROWS = 4
"""Rows of the larger tile; the smaller has one."""

_LARGEST_SUM = 128  # of weights of one sign in 16 bits: 255 * 128 < 2**15


@dataclass(frozen=True, slots=True)
class PackedKernel:
    """A quantised kernel in the tile's layout: x @ kernel = sums of bytes * scale - zero."""

    bytes: npt.NDArray[np.int8]  # (column blocks, depth of a block in bytes)
    scale: npt.NDArray[np.float32]  # (columns,)
    zero: npt.NDArray[np.float64]  # (columns,), what the zero point of 128 contributes

    @property
    def columns(self) -> int:
        """Number of columns, padded to whole blocks."""
        return len(self.scale)

    def kernel(self) -> npt.NDArray[np.float64]:
        """Return the dequantised kernel: (inputs, columns), padded to whole blocks."""
        blocks = self.bytes.reshape(len(self.bytes), -1, VECTORS, LANES, GROUP)
        columns = blocks.transpose(1, 4, 0, 2, 3).reshape(-1, self.columns)
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
    blocks = q.astype(np.int8).reshape(-1, GROUP, w.shape[1] // COLUMNS, VECTORS, LANES)
    return PackedKernel(
        bytes=np.ascontiguousarray(blocks.transpose(2, 0, 3, 4, 1)).reshape(blocks.shape[2], -1),
        scale=(scale / 127.0).astype(np.float32),
        zero=128.0 / 127.0 * scale * q.sum(axis=0),
    )


def _sums(w: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the absolute sums of the weights of one sign per 16-bit lane: (lanes, columns)."""
    lanes = w.reshape(len(w) // DEPTH, DEPTH // GROUP, 2, 2, -1)  # block, group, pair, k, column
    positive, negative = np.maximum(lanes, 0.0), np.maximum(-lanes, 0.0)
    both = np.stack([positive.sum(axis=(1, 3)), negative.sum(axis=(1, 3))])
    return both.reshape(-1, w.shape[1])


def _tile(rows: int) -> Callable[..., Any]:
    """Return the kernel for `rows` rows by one column block, which Numba inlines.

    Arguments: x and its row length in bytes, the block's bytes, z and its row length in
    elements, blocks of DEPTH.
    """

    @intrinsic
    def tile(_, x, x_stride, block, z, z_stride, depth):  # type: ignore[no-untyped-def]
        signature = types.void(
            types.voidptr, types.int64, types.voidptr, types.voidptr, types.int64, types.int64
        )

        def generate(context, builder, _, arguments):  # type: ignore[no-untyped-def]
            _Tile(builder, rows).generate(*arguments)
            return context.get_dummy_value()

        return signature, generate

    return tile


_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_BYTES, _WORDS, _DWORDS = ir.VectorType(_I8, 32), ir.VectorType(_I16, 16), ir.VectorType(_I32, 8)


class _Tile:
    """Generates the LLVM instructions of one tile."""

    def __init__(self, builder: ir.IRBuilder, rows: int) -> None:
        self._builder, self._rows = builder, rows
        self._multiply = self._instruction("llvm.x86.avx2.pmadd.ub.sw", _WORDS, _BYTES)
        self._widen = self._instruction("llvm.x86.avx2.pmadd.wd", _DWORDS, _WORDS)

    def generate(self, x, x_stride, block, z, z_stride, depth) -> None:  # type: ignore[no-untyped-def]
        b = self._builder
        places = [(r, v) for r in range(self._rows) for v in range(VECTORS)]
        zero = ir.Constant(_DWORDS, [0] * LANES)
        totals = {place: cgutils.alloca_once_value(b, zero) for place in places}
        with cgutils.for_range(b, depth) as loop:
            inputs = b.mul(loop.index, _I64(DEPTH))
            rows = [b.gep(x, [b.add(b.mul(x_stride, _I64(r)), inputs)]) for r in range(self._rows)]
            weights = b.gep(block, [b.mul(loop.index, _I64(DEPTH * COLUMNS))])
            for place, words in self._sixteen(rows, weights).items():
                ones = ir.Constant(_WORDS, [1] * 16)
                total = b.add(b.load(totals[place]), b.call(self._widen, [words, ones]))
                b.store(total, totals[place])
        for r, v in places:
            start = b.gep(z, [b.mul(_I64(4), b.add(b.mul(z_stride, _I64(r)), _I64(LANES * v)))])
            store = b.store(b.load(totals[r, v]), b.bitcast(start, _DWORDS.as_pointer()))
            store.align = 1

    def _sixteen(self, rows, weights):  # type: ignore[no-untyped-def]
        """Sum 16 products in 16 bits, for each row and vector of the tile."""
        b = self._builder
        sums: dict[tuple[int, int], Any] = {}
        for group in range(DEPTH // GROUP):
            columns = [
                self._load(weights, 32 * (VECTORS * group + v), _BYTES) for v in range(VECTORS)
            ]
            for r, row in enumerate(rows):
                inputs = self._spread(self._load(row, GROUP * group, _I32))
                for v in range(VECTORS):
                    products = b.call(self._multiply, [inputs, columns[v]])
                    sums[r, v] = b.add(sums[r, v], products) if (r, v) in sums else products
        return sums

    def _spread(self, four):  # type: ignore[no-untyped-def]
        """Broadcast four bytes to every lane of a vector."""
        b, nothing = self._builder, ir.Constant(_DWORDS, ir.Undefined)
        one = b.insert_element(nothing, four, _I32(0))
        return b.bitcast(b.shuffle_vector(one, nothing, ir.Constant(_DWORDS, [0] * LANES)), _BYTES)

    def _load(self, start, offset, kind):  # type: ignore[no-untyped-def]
        b = self._builder
        load = b.load(b.bitcast(b.gep(start, [_I64(offset)]), kind.as_pointer()))
        load.align = 1
        return load

    def _instruction(self, name: str, result: ir.Type, operand: ir.Type) -> ir.Function:
        kind = ir.FunctionType(result, [operand, operand])
        return cgutils.get_or_insert_function(self._builder.module, kind, name)


@intrinsic
def _address(_, array, offset):  # type: ignore[no-untyped-def]
    """Return the address of the byte at `offset` of an array."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.gep(builder.bitcast(data, _I8.as_pointer()), [arguments[1]])

    return types.voidptr(array, types.int64), generate


_many, _one = _tile(ROWS), _tile(1)


@njit(nogil=True, cache=True)
def multiply(x, block_bytes, z, first, last):  # type: ignore[no-untyped-def]
    """Write `x @ packed kernel` into z, for the rows from `first` to `last`.

    x is (rows, depth) uint8 with depth a multiple of 32, z (rows, columns) int32.
    """
    stride, columns = x.shape[1], z.shape[1]
    depth = stride // DEPTH
    for block in range(len(block_bytes)):
        weights = _address(block_bytes, block * block_bytes.shape[1])
        row = first
        while row + ROWS <= last:
            out = _address(z, 4 * (row * columns + block * COLUMNS))
            _many(_address(x, row * stride), stride, weights, out, columns, depth)
            row += ROWS
        while row < last:
            out = _address(z, 4 * (row * columns + block * COLUMNS))
            _one(_address(x, row * stride), stride, weights, out, columns, depth)
            row += 1
