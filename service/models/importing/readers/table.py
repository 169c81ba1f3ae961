"""The LevelDB table format: the sorted keys and values of a checkpoint's `.index` file.

Footer, the last 48 bytes: handles of the metaindex and the index block, padding, magic. A block is
entries (shared, unshared and value length, key tail, value), restart offsets and their count; one
byte of compression and a masked CRC-32C follow it. Source: TensorFlow's `lib/io/format.h`.
"""

from collections.abc import Iterator

from service.errors import BadCheckpoint
from service.models.importing.readers.crc32c import masked_crc32c
from service.models.importing.readers.protobuf import read_varint

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER_BYTES = 48
MAX_KEY_BYTES = 4096
MAX_ENTRIES = 100_000

_TRAILER_BYTES = 5


def read_table(content: bytes) -> dict[bytes, bytes]:
    """Return all keys and values of a table. Raises BadCheckpoint."""
    footer = content[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or not footer.endswith(MAGIC):
        raise BadCheckpoint("the checkpoint's index is truncated: its end mark is missing")
    offset = 0
    for _ in range(2):  # the metaindex block, which TensorFlow leaves empty
        _, offset = read_varint(footer, offset)
    index = _block(content, footer, offset)
    values: dict[bytes, bytes] = {}
    for _, handle in _entries(index):
        for key, value in _entries(_block(content, handle, 0)):
            values[key] = value
            if len(values) > MAX_ENTRIES:
                raise BadCheckpoint(f"the checkpoint's index has more than {MAX_ENTRIES} entries")
    return values


def _block(content: bytes, handle: bytes, offset: int) -> bytes:
    start, offset = read_varint(handle, offset)
    size, _ = read_varint(handle, offset)
    if start + size + _TRAILER_BYTES > len(content) - FOOTER_BYTES:
        raise BadCheckpoint(
            f"the checkpoint's index refers to bytes {start} to {start + size}, "
            f"but it has {len(content)}"
        )
    block = content[start : start + size]
    compression = content[start + size : start + size + 1]
    stored = int.from_bytes(content[start + size + 1 : start + size + _TRAILER_BYTES], "little")
    if masked_crc32c(block, compression) != stored:
        raise BadCheckpoint("the checkpoint's index is damaged: a block's checksum does not match")
    if compression != b"\0":
        raise BadCheckpoint("the checkpoint's index is compressed, which TensorFlow never writes")
    return block


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    restarts = int.from_bytes(block[-4:], "little") if len(block) >= 4 else 0
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise BadCheckpoint("the checkpoint's index is damaged: a block is shorter than its table")
    key, offset = b"", 0
    while offset < end:
        shared, offset = read_varint(block, offset)
        unshared, offset = read_varint(block, offset)
        value_bytes, offset = read_varint(block, offset)
        if shared + unshared > MAX_KEY_BYTES:
            raise BadCheckpoint(
                f"the checkpoint's index has a key of {shared + unshared} bytes; "
                f"the limit is {MAX_KEY_BYTES}"
            )
        if shared > len(key) or offset + unshared + value_bytes > end:
            raise BadCheckpoint(
                "the checkpoint's index is damaged: an entry is longer than its block"
            )
        key = key[:shared] + block[offset : offset + unshared]
        offset += unshared
        yield key, block[offset : offset + value_bytes]
        offset += value_bytes
