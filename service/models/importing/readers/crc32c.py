"""CRC-32C (Castagnoli) of large buffers, and TensorFlow's masked form of it.

The checksum is linear: the buffer is split into segments whose checksums are computed in parallel
by NumPy, and each is then shifted over the bytes that follow it.
Source: RFC 3720, appendix B.4; masking as in LevelDB's `util/crc32c.h`.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

_POLYNOMIAL = 0x82F63B78
_SEGMENT_BYTES = 4096
_SEGMENTS = 2048

_Words = npt.NDArray[np.uint32]


def masked_crc32c(*parts: bytes) -> int:
    """Return the masked checksum of concatenated parts, as TensorFlow stores it."""
    crc = 0
    for part in parts:
        crc = crc32c(part, crc)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(content: bytes, crc: int = 0) -> int:
    """Return the checksum of `content` after bytes whose checksum is `crc`."""
    octets = np.frombuffer(content, np.uint8)
    state = crc ^ 0xFFFFFFFF
    while len(octets) >= 2 * _SEGMENT_BYTES:
        segments = min(_SEGMENTS, len(octets) // _SEGMENT_BYTES)
        block, octets = np.split(octets, [segments * _SEGMENT_BYTES])
        state = _block(block.reshape(segments, _SEGMENT_BYTES), state)
    table = _table().tolist()
    for octet in octets.tolist():
        state = table[(state ^ octet) & 0xFF] ^ (state >> 8)
    return state ^ 0xFFFFFFFF


def _block(block: npt.NDArray[np.uint8], state: int) -> int:
    """Advance the register `state` over (segments, bytes)."""
    table = _table()
    registers: _Words = np.zeros(len(block), np.uint32)
    registers[0] = state
    for column in np.ascontiguousarray(block.T):
        registers = table[(registers ^ column) & 0xFF] ^ (registers >> 8)
    first, second, third, fourth = _shift_by_segment()
    total = 0
    for register in registers.tolist():
        low = first[total & 0xFF] ^ second[(total >> 8) & 0xFF]
        total = register ^ low ^ third[(total >> 16) & 0xFF] ^ fourth[total >> 24]
    return total


@cache
def _table() -> _Words:
    """Return the effect of eight shifts on each value of the lowest byte."""
    table: _Words = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


@cache
def _shift_by_segment() -> list[list[int]]:
    """Return the effect of a segment of zeros on each value of each byte of the register."""
    table = _table()
    registers: _Words = (
        np.arange(256, dtype=np.uint32)[None] << (8 * np.arange(4, dtype=np.uint32))[:, None]
    )
    for _ in range(_SEGMENT_BYTES):
        registers = table[registers & 0xFF] ^ (registers >> 8)
    shifts: list[list[int]] = registers.tolist()
    return shifts
