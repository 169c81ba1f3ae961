"""A writer of TensorFlow checkpoints in which anything can be made wrong."""

import math

import numpy as np

from service.models.importing.readers.crc32c import masked_crc32c
from service.models.importing.readers.table import MAGIC

FLOAT, STRING = 1, 7
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    """A protobuf field: a number, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def fixed32(number, value):
    return varint(number << 3 | 5) + value.to_bytes(4, "little")


def shape_message(shape):
    return b"".join(field(2, field(1, size)) for size in shape)


def entry_message(shape, offset, size, crc, dtype=FLOAT, shard=0, extra=b""):
    return (
        field(1, dtype)
        + field(2, shape_message(shape))
        + field(3, shard)
        + field(4, offset)
        + field(5, size)
        + fixed32(6, crc)
        + extra
    )


def string_tensor(text):
    """Bytes and checksum of a scalar string tensor."""
    length = len(text).to_bytes(4, "little")
    crc_of_length = masked_crc32c(length).to_bytes(4, "little")
    return varint(len(text)) + crc_of_length + text, masked_crc32c(length, crc_of_length, text)


def block(entries, compression=b"\0"):
    """A table block with its trailer; keys are not shortened."""
    content = b"".join(
        varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries
    )
    content += (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
    crc = masked_crc32c(content, compression)
    return content, content + compression + crc.to_bytes(4, "little")


def table(entries, **options):
    """The bytes of an `.index` file."""
    content, with_trailer = block(entries, **options)
    handle = varint(0) + varint(len(content))
    index, index_with_trailer = block([(b"z", handle)])
    meta, meta_with_trailer = block([])
    footer = varint(len(with_trailer)) + varint(len(meta))
    footer += varint(len(with_trailer) + len(meta_with_trailer)) + varint(len(index))
    return with_trailer + meta_with_trailer + index_with_trailer + footer.ljust(40, b"\0") + MAGIC


def header(shards=1):
    return field(1, shards) + field(3, field(1, 1))


def write_bundle(folder, arrays, name="ckpt_1", change=None, shards=1, texts=None, **options):
    """Write `arrays` (name → array); `change` maps a name to other fields of its entry."""
    data, entries = b"", {b"": header(shards)}
    for key, text in ({GRAPH: b""} | (texts or {})).items():
        content, crc = string_tensor(text)
        entries[key.encode()] = entry_message((), len(data), len(content), crc, STRING)
        data += content
    for key, array in arrays.items():
        content = np.ascontiguousarray(array, "<f4").tobytes()
        fields = {
            "shape": array.shape,
            "offset": len(data),
            "size": len(content),
            "crc": masked_crc32c(content),
        } | (change or {}).get(key, {})
        entries[(key + VALUE).encode()] = entry_message(**fields)
        data += content
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.index").write_bytes(table(sorted(entries.items()), **options))
    (folder / f"{name}.data-00000-of-00001").write_bytes(data)
    return folder


def lstm_arrays(vocabulary=3, units=2, embedding=2, seed=7):
    """A small model under the names that `save_weights` gives."""
    shapes = {
        "layer_with_weights-0/embeddings": (vocabulary, embedding),
        "layer_with_weights-1/cell/kernel": (embedding, 4 * units),
        "layer_with_weights-1/cell/recurrent_kernel": (units, 4 * units),
        "layer_with_weights-1/cell/bias": (4 * units,),
        "layer_with_weights-2/kernel": (units, vocabulary),
        "layer_with_weights-2/bias": (vocabulary,),
    }
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(math.prod(s)).reshape(s) for name, s in shapes.items()}
