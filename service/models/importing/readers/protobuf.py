"""The protocol-buffer wire format, as much of it as TensorFlow's checkpoints use."""

from collections.abc import Iterator

from service.errors import BadCheckpoint

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def read_varint(content: bytes, offset: int) -> tuple[int, int]:
    """An unsigned number and the offset after it. Raises BadCheckpoint."""
    value = 0
    for i in range(10):
        if offset + i >= len(content):
            break
        byte = content[offset + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, offset + i + 1
    raise BadCheckpoint("the checkpoint's index holds a number that does not end")


def read_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values in order: numbers as int, everything else as bytes."""
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
            raise BadCheckpoint(f"the checkpoint's index holds a field of wire type {wire_type}")
        if offset + size > len(message):
            raise BadCheckpoint("the checkpoint's index holds a field longer than its message")
        field = message[offset : offset + size]
        offset += size
        yield number, field if wire_type == BYTES else int.from_bytes(field, "little")


def as_int(value: int | bytes) -> int:
    """A field that must be a number."""
    if not isinstance(value, int):
        raise BadCheckpoint("the checkpoint's index holds bytes where a number belongs")
    return value


def as_bytes(value: int | bytes) -> bytes:
    """A field that must be bytes: a string or a message."""
    if not isinstance(value, bytes):
        raise BadCheckpoint("the checkpoint's index holds a number where bytes belong")
    return value
