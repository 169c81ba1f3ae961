"""The part of the protocol-buffer wire format that TensorFlow's checkpoints use."""

from collections.abc import Iterator

from service.errors import BadCheckpoint

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def read_varint(content: bytes, offset: int) -> tuple[int, int]:
    """Read an unsigned number; return it and the offset after it. Raises BadCheckpoint."""
    value = 0
    for i in range(10):
        if offset + i >= len(content):
            break
        byte = content[offset + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, offset + i + 1
    raise BadCheckpoint("the checkpoint's index has a number without an end")


def read_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield field numbers and values in order: numbers as int, everything else as bytes."""
    offset = 0
    while offset < len(message):
        key, offset = read_varint(message, offset)
        number, wire_type = key >> 3, key & 7
        if wire_type == VARINT:
            value, offset = read_varint(message, offset)
            yield number, value
            continue
        if wire_type == BYTES:
            size, offset = read_varint(message, offset)
        elif wire_type in (FIXED32, FIXED64):
            size = 4 if wire_type == FIXED32 else 8
        else:
            raise BadCheckpoint(f"the checkpoint's index has a field of wire type {wire_type}")
        if offset + size > len(message):
            raise BadCheckpoint("the checkpoint's index has a field longer than its message")
        field = message[offset : offset + size]
        offset += size
        yield number, field if wire_type == BYTES else int.from_bytes(field, "little")


def as_int(value: int | bytes) -> int:
    """Return a field that must be a number. Raises BadCheckpoint."""
    if not isinstance(value, int):
        raise BadCheckpoint("the checkpoint's index has bytes in place of a number")
    return value


def as_bytes(value: int | bytes) -> bytes:
    """Return a field that must be a string or a message. Raises BadCheckpoint."""
    if not isinstance(value, bytes):
        raise BadCheckpoint("the checkpoint's index has a number in place of bytes")
    return value
