"""A tile: the LLVM instructions that multiply some rows of bytes by one block of columns.

Numba inlines a tile into the kernel that calls it, `int8_gemm` or `vnni_gemm`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

GROUP = 4
"""Neighbours of a row that are multiplied in one lane of 32 bits."""

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


class Tile(ABC):
    """Generates the instructions of one tile, in vectors of `lanes` numbers of 32 bits.

    A number has as many sums that do not wait for each other as there are `chains`.
    """

    def __init__(self, builder: ir.IRBuilder, rows: int, lanes: int, chains: int) -> None:
        self.builder, self.rows, self.lanes, self.chains = builder, rows, lanes, chains
        self.dwords, self.bytes = ir.VectorType(I32, lanes), ir.VectorType(I8, GROUP * lanes)

    @abstractmethod
    def generate(self, x, x_stride, block, z, z_stride, depth) -> None:  # type: ignore[no-untyped-def]
        """Generate the product.

        Arguments: x and its row length in bytes, the block's bytes, z and its row length in
        elements, and how many turns the loop over the depth takes.
        """

    def totals(self, *counts: int) -> dict[tuple[int, ...], Any]:
        """Return a vector of zero sums for each index below `counts`."""
        indices: list[tuple[int, ...]] = [()]
        for n in counts:
            indices = [(*index, i) for index in indices for i in range(n)]
        zero = ir.Constant(self.dwords, [0] * self.lanes)
        return {index: cgutils.alloca_once_value(self.builder, zero) for index in indices}

    def starts(self, x, x_stride, offset):  # type: ignore[no-untyped-def]
        """Return the address `offset` bytes after the beginning of each row."""
        b = self.builder
        return [b.gep(x, [b.add(b.mul(x_stride, I64(r)), offset)]) for r in range(self.rows)]

    def spread(self, start, offset):  # type: ignore[no-untyped-def]
        """Load four bytes into every lane of a vector."""
        b, nothing = self.builder, ir.Constant(self.dwords, ir.Undefined)
        one = b.insert_element(nothing, self.load(start, offset, I32), I32(0))
        zeros = ir.Constant(self.dwords, [0] * self.lanes)
        return b.bitcast(b.shuffle_vector(one, nothing, zeros), self.bytes)

    def load(self, start, offset, kind):  # type: ignore[no-untyped-def]
        """Load a value, `offset` bytes after `start`."""
        b = self.builder
        load = b.load(b.bitcast(b.gep(start, [I64(offset)]), kind.as_pointer()))
        load.align = 1
        return load

    def store(self, sums, z, z_stride, row, vector) -> None:  # type: ignore[no-untyped-def]
        """Store a vector of sums: the one at index `vector` of a row of the tile."""
        b, place = self.builder, I64(self.lanes * vector)
        start = b.gep(z, [b.mul(I64(4), b.add(b.mul(z_stride, I64(row)), place))])
        store = b.store(sums, b.bitcast(start, self.dwords.as_pointer()))
        store.align = 1

    def instruction(self, name: str, result: ir.Type, *operands: ir.Type) -> ir.Function:
        """Return an instruction of the processor by its name in LLVM."""
        kind = ir.FunctionType(result, operands)
        return cgutils.get_or_insert_function(self.builder.module, kind, name)


def tile_function(kind: type[Tile]) -> Callable[..., Any]:
    """Return a kind of tile as a function for compiled code: rows, lanes and chains come first.

    These three are constants; the arguments of `generate` follow.
    """

    @intrinsic(prefer_literal=True)
    def tile(_, rows, lanes, chains, x, x_stride, block, z, z_stride, depth):  # type: ignore[no-untyped-def]
        constants = rows, lanes, chains
        integer, pointer = types.int64, types.voidptr
        signature = types.void(*constants, pointer, integer, pointer, pointer, integer, integer)

        def generate(context, builder, _, arguments):  # type: ignore[no-untyped-def]
            values = (constant.literal_value for constant in constants)
            kind(builder, *values).generate(*arguments[len(constants) :])
            return context.get_dummy_value()

        return signature, generate

    return tile


@intrinsic
def address(_, array, offset):  # type: ignore[no-untyped-def]
    """Return the address of the byte at `offset` of an array."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.gep(builder.bitcast(data, I8.as_pointer()), [arguments[1]])

    return types.voidptr(array, types.int64), generate
