"""TensorFlow's checkpoint format: a `.index` table of tensors, and `.data` files of raw numbers.

Every offset is checked against the size of its file before anything is read, and every tensor
against its checksum after. Source: TensorFlow's `tensor_bundle.proto` and `tensor_bundle.cc`.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np

from service.errors import BadCheckpoint
from service.models.importing.checkpoint import Array, StoredArray
from service.models.importing.folder import ImportFolder
from service.models.importing.readers.crc32c import masked_crc32c
from service.models.importing.readers.protobuf import as_bytes, as_int, read_fields, read_varint
from service.models.importing.readers.table import read_table

MAX_INDEX_BYTES = 64 * 1024 * 1024
MAX_SHARDS = 256
MAX_RANK = 8
MAX_STRINGS = 4096

_NUMBERS = {
    1: ("float32", 4),
    2: ("float64", 8),
    6: ("int8", 1),
    14: ("bfloat16", 2),
    19: ("float16", 2),
}
INTEGERS = (3, 4, 5, 6, 9, 10, 17, 22, 23)
"""The data types of counters and of the states of random generators."""
_STRING = 7
_BIG_ENDIAN = 1


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """The type, shape and place of a tensor: a `BundleEntryProto`."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size_bytes: int
    checksum: int
    is_partitioned: bool


class TensorBundle:
    """An open checkpoint: its entries by name, and their tensors."""

    def __init__(self, folder: ImportFolder, prefix: PurePosixPath) -> None:
        """Open `prefix.index` and its data files. Raises BadCheckpoint."""
        table = read_table(folder.read(with_suffix(prefix, ".index"), MAX_INDEX_BYTES))
        shards = _read_header(table)
        self.entries: Mapping[str, TensorEntry] = {
            key.decode("utf-8", "backslashreplace"): _read_entry(value)
            for key, value in table.items()
            if key
        }
        self._data: list[BinaryIO] = []
        for i in range(shards):
            path = with_suffix(prefix, f".data-{i:05d}-of-{shards:05d}")
            if folder.kind(path) == "absent":
                raise BadCheckpoint(f"the checkpoint's data file {path.name} is missing")
            self._data.append(folder.open(path))

    def array(self, name: str) -> StoredArray:
        """Return a tensor of numbers, checked but not loaded. Raises BadCheckpoint."""
        entry = self._checked(name)
        if entry.dtype not in _NUMBERS:
            raise BadCheckpoint(f"{name} has the data type {entry.dtype}; weights are floats")
        dtype, item_bytes = _NUMBERS[entry.dtype]
        expected = math.prod(entry.shape) * item_bytes
        if entry.size_bytes != expected:
            raise BadCheckpoint(
                f"{name} declares {entry.size_bytes} bytes, "
                f"but its shape {entry.shape} takes {expected}"
            )
        return StoredArray(entry.shape, dtype, lambda: self._numbers(name, entry))

    def strings(self, name: str) -> list[bytes]:
        """Read a tensor of strings: their lengths, a checksum of these, their bytes."""
        entry = self._checked(name)
        count = math.prod(entry.shape)
        if entry.dtype != _STRING or count > MAX_STRINGS:
            raise BadCheckpoint(f"{name} is not a tensor of at most {MAX_STRINGS} strings")
        content, offset, lengths = self._bytes(entry), 0, []
        for _ in range(count):
            length, offset = read_varint(content, offset)
            lengths.append(length)
        offset += 4
        if offset + sum(lengths) != entry.size_bytes:
            raise BadCheckpoint(f"{name} declares strings that are not in its bytes")
        sizes = b"".join(length.to_bytes(4, "little") for length in lengths)
        if masked_crc32c(sizes, content[offset - 4 :]) != entry.checksum:
            raise BadCheckpoint(f"{name} is damaged: its checksum does not match")
        out = []
        for length in lengths:
            out.append(content[offset : offset + length])
            offset += length
        return out

    def _checked(self, name: str) -> TensorEntry:
        entry = self.entries[name]
        if entry.is_partitioned:
            raise BadCheckpoint(f"{name} is a partitioned variable, which is not served")
        if entry.shard >= len(self._data):
            raise BadCheckpoint(f"{name} is in data file {entry.shard} of {len(self._data)}")
        if len(entry.shape) > MAX_RANK:
            raise BadCheckpoint(f"{name} has {len(entry.shape)} dimensions")
        size = os.fstat(self._data[entry.shard].fileno()).st_size
        if entry.offset + entry.size_bytes > size:
            raise BadCheckpoint(
                f"{name} is at bytes {entry.offset} to {entry.offset + entry.size_bytes} "
                f"of a data file that has {size}"
            )
        return entry

    def _bytes(self, entry: TensorEntry) -> bytes:
        file = self._data[entry.shard]
        file.seek(entry.offset)
        content = file.read(entry.size_bytes)
        if len(content) != entry.size_bytes:
            raise BadCheckpoint("the checkpoint's data file became shorter while it was read")
        return content

    def _numbers(self, name: str, entry: TensorEntry) -> Array:
        content = self._bytes(entry)
        if masked_crc32c(content) != entry.checksum:
            raise BadCheckpoint(f"{name} is damaged: its checksum does not match")
        return from_bytes(content, _NUMBERS[entry.dtype][0]).reshape(entry.shape)


def from_bytes(content: bytes, dtype: str) -> Array:
    """Convert little-endian numbers to an array; bfloat16 becomes float32, which is exact."""
    if dtype == "bfloat16":
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(content, np.dtype(dtype).newbyteorder("<"))


def with_suffix(prefix: PurePosixPath, suffix: str) -> PurePosixPath:
    """Append a suffix to a prefix: `ckpt_1.5` and `.index` make `ckpt_1.5.index`."""
    return prefix.with_name(prefix.name + suffix)


def _read_header(table: Mapping[bytes, bytes]) -> int:
    """Return the number of data files, from the `BundleHeaderProto` under the empty key."""
    if b"" not in table:
        raise BadCheckpoint("the checkpoint's index has no header")
    fields = dict(read_fields(table[b""]))
    if as_int(fields.get(2, 0)) == _BIG_ENDIAN:
        raise BadCheckpoint("the checkpoint was written on a big-endian machine")
    shards = as_int(fields.get(1, 0))
    if not 1 <= shards <= MAX_SHARDS:
        raise BadCheckpoint(f"the checkpoint has {shards} data files; 1 to {MAX_SHARDS} are read")
    return shards


def _read_entry(message: bytes) -> TensorEntry:
    numbers = dict.fromkeys((1, 3, 4, 5, 6), 0)
    shape: list[int] = []
    is_partitioned = False
    for number, value in read_fields(message):
        if number == 2:
            shape = _read_shape(as_bytes(value))
        elif number == 7:
            is_partitioned = True
        elif number in numbers:
            numbers[number] = as_int(value)
    dtype, shard, offset, size, checksum = numbers.values()
    return TensorEntry(dtype, tuple(shape), shard, offset, size, checksum, is_partitioned)


def _read_shape(message: bytes) -> list[int]:
    """Read a `TensorShapeProto`: field 2 repeated, each a message whose field 1 is the size."""
    return [
        sum(as_int(size) for key, size in read_fields(as_bytes(value)) if key == 1)
        for number, value in read_fields(message)
        if number == 2
    ]
