"""A range coder over the probabilities of a model: kernels on the lanes of a batch.

The decoder has to find each frequency that the encoder had. So a frequency is a whole number that
follows from a row's logits by operations with one result on every machine: one subtraction and one
product in float64, the cut to a whole number, and shifts of a table that whole numbers have made.
There is no exp, no sum of fractions, and nothing that a compiler may reorder or contract.

A lane writes symbols: tokens, and bytes that no token writes. A flag says which one comes, by the
share of bytes so far; a byte has a frequency by how often it came. A range has 49 to 56 bits, and
the frequencies of a vocabulary are at most 2^41 in sum, so that whole numbers of 64 bits suffice.
"""

from math import isqrt

import numpy as np
import numpy.typing as npt
from numba import njit

SCALE_BITS = 24
"""The most likely token has the frequency 2 to this power, and each token at least 1."""

_TABLE_BITS = 10  # entries for an octave of probabilities: an error below 0.1 % of one
_LARGEST_DROP = float(((SCALE_BITS + 1) << _TABLE_BITS) - 1)
_DROP_OF_LOGIT = 1.4426950408889634 * (1 << _TABLE_BITS)

_RANGE_BITS = 56
_TOP = 1 << _RANGE_BITS
_BOTTOM = 1 << (_RANGE_BITS - 8)
_LAST_BYTE = _RANGE_BITS - 8

_FLAG_BITS = 16
_PRIOR = 64  # tokens that are counted as seen, beside half a byte
_MOST_FLAGS = 1 << 15
_BYTE_STEP, _MOST_BYTES = 32, 1 << 16
_BYTES = 256  # place of the sum in a lane's counts of bytes

DONE, NOT_NUMBERS, DAMAGED = 1, 2, 3
"""What a lane is besides 0, at work: at its end; without frequencies; longer than its text."""


def _powers() -> npt.NDArray[np.int64]:
    """Return 2^(SCALE_BITS - i / 2^_TABLE_BITS) for one octave, from whole numbers alone."""
    one = 1 << 200
    ratio = one >> 1
    for _ in range(_TABLE_BITS):
        ratio = isqrt(one * ratio)
    values, value = [], one
    for _ in range(1 << _TABLE_BITS):
        values.append(value >> (200 - SCALE_BITS))
        value = value * ratio // one
    return np.array(values, np.int64)


_POWERS = _powers()


def new_flag_counts(lanes: int) -> npt.NDArray[np.int64]:
    """Return how many bytes and tokens each lane has had: none."""
    return np.zeros((lanes, 2), np.int64)


def new_byte_counts(lanes: int) -> npt.NDArray[np.int64]:
    """Return the counts of each lane's bytes, all 1, and their sum."""
    counts = np.ones((lanes, _BYTES + 1), np.int64)
    counts[:, _BYTES] = _BYTES
    return counts


def most_bytes(symbols: int) -> int:
    """Return how many bytes the code of so many symbols has at most."""
    return 8 * symbols + 16


@njit(cache=True, nogil=True, error_model="numpy")
def frequencies(logits, has_text, out):  # type: ignore[no-untyped-def]
    """Write the frequency of each token into `out`, 0 of those without a text; return their sum.

    It is 0 where a logit is not a number, or the largest is not finite.
    """
    largest = np.float64(-np.inf)
    for i in range(len(logits)):
        if has_text[i] and logits[i] > largest:
            largest = np.float64(logits[i])
    total = np.int64(0)
    for i in range(len(logits)):
        out[i] = 0
        if has_text[i]:
            drop = largest - np.float64(logits[i])
            if not drop >= 0.0:
                return np.int64(0)
            place = np.int64(min(drop * _DROP_OF_LOGIT, _LARGEST_DROP))
            octave = place >> _TABLE_BITS
            power = _POWERS[place & ((1 << _TABLE_BITS) - 1)] >> octave
            out[i] = max(power, 1)
            total += out[i]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _byte_share(flags):  # type: ignore[no-untyped-def]
    share = ((2 * flags[0] + 1) << _FLAG_BITS) // (2 * (flags[0] + flags[1] + _PRIOR))
    return min(max(share, 1), (1 << _FLAG_BITS) - 1)


@njit(cache=True, nogil=True, error_model="numpy")
def _count_flag(flags, which):  # type: ignore[no-untyped-def]
    flags[which] += 1
    if flags[0] + flags[1] > _MOST_FLAGS:
        flags[0] >>= 1
        flags[1] >>= 1


@njit(cache=True, nogil=True, error_model="numpy")
def _count_byte(counts, byte):  # type: ignore[no-untyped-def]
    counts[byte] += _BYTE_STEP
    counts[_BYTES] += _BYTE_STEP
    if counts[_BYTES] > _MOST_BYTES:
        counts[_BYTES] = 0
        for i in range(_BYTES):
            counts[i] = (counts[i] + 1) >> 1
            counts[_BYTES] += counts[i]


@njit(cache=True, nogil=True, error_model="numpy")
def _write(coder, out, first, size, total):  # type: ignore[no-untyped-def]
    """Narrow a lane's range, `coder` = low, range, bytes written, to the part of a symbol."""
    part = coder[1] // total
    coder[0] += part * first
    coder[1] = part * size
    if coder[0] >= _TOP:
        coder[0] -= _TOP
        _carry(out, coder[2])
    while coder[1] < _BOTTOM:
        out[coder[2]] = np.uint8(coder[0] >> _LAST_BYTE)
        coder[2] += 1
        coder[0] = (coder[0] & (_BOTTOM - 1)) << 8
        coder[1] <<= 8


@njit(cache=True, nogil=True, error_model="numpy")
def _carry(out, size):  # type: ignore[no-untyped-def]
    i = size - 1
    while out[i] == 255:
        out[i] = 0
        i -= 1
    out[i] += np.uint8(1)


@njit(cache=True, nogil=True, error_model="numpy")
def begin_writing(coder):  # type: ignore[no-untyped-def]
    """Set each lane's coder to the whole range, and nothing written."""
    for lane in range(len(coder)):
        coder[lane, 0], coder[lane, 1], coder[lane, 2] = 0, _TOP, 0


@njit(cache=True, nogil=True, error_model="numpy")
def end_writing(coder, out):  # type: ignore[no-untyped-def]
    """Write the shortest number within each lane's range; the decoder reads zeros after it."""
    for lane in range(len(coder)):
        value = (coder[lane, 0] + _BOTTOM - 1) >> _LAST_BYTE
        if value >= 256:
            value -= 256
            _carry(out[lane], coder[lane, 2])
        out[lane, coder[lane, 2]] = np.uint8(value)
        coder[lane, 2] += 1
        while coder[lane, 2] > 0 and out[lane, coder[lane, 2] - 1] == 0:
            coder[lane, 2] -= 1


@njit(cache=True, nogil=True, error_model="numpy")
def write_tokens(logits, has_text, tokens, symbols, places, counts, code, first, last):  # type: ignore[no-untyped-def]
    """Write the next token of each lane from `first` to `last`, and the bytes before it.

    `symbols` has tokens, and -1 - byte; a lane's are from `places[lane, 0]` to `places[lane, 1]`.
    `counts` = flags, bytes, and each lane's state; `code` = coder, out. Returns how many lanes are
    at their end now.
    """
    flags, bytes_seen, states = counts
    coder, out = code
    numbers = np.empty(logits.shape[1], np.int64)
    n_ended = 0
    for lane in range(first, last):
        if states[lane] != 0:
            continue
        while states[lane] == 0:
            at = places[lane, 0]
            if at == places[lane, 1]:
                states[lane] = DONE
                break
            places[lane, 0] += 1
            symbol, share = symbols[at], _byte_share(flags[lane])
            if symbol < 0:
                _write(coder[lane], out[lane], 0, share, 1 << _FLAG_BITS)
                _count_flag(flags[lane], 0)
                byte, before = -1 - symbol, np.int64(0)
                for i in range(byte):
                    before += bytes_seen[lane, i]
                seen = bytes_seen[lane]
                _write(coder[lane], out[lane], before, seen[byte], seen[_BYTES])
                _count_byte(seen, byte)
            else:
                total = frequencies(logits[lane], has_text, numbers)
                if total == 0:
                    states[lane] = NOT_NUMBERS
                    break
                rest = (1 << _FLAG_BITS) - share
                _write(coder[lane], out[lane], share, rest, 1 << _FLAG_BITS)
                _count_flag(flags[lane], 1)
                before = np.int64(0)
                for i in range(symbol):
                    before += numbers[i]
                _write(coder[lane], out[lane], before, numbers[symbol], total)
                tokens[lane] = symbol
                if places[lane, 0] == places[lane, 1]:
                    states[lane] = DONE
                break
        n_ended += states[lane] != 0
    return n_ended


@njit(cache=True, nogil=True, error_model="numpy")
def _next_byte(coder, code, ends, lane):  # type: ignore[no-untyped-def]
    at = coder[lane, 2]
    coder[lane, 2] += 1
    return np.int64(code[at]) if at < ends[lane] else np.int64(0)


@njit(cache=True, nogil=True, error_model="numpy")
def begin_reading(coder, code, starts, ends):  # type: ignore[no-untyped-def]
    """Set each lane's coder = value, range, place in `code`, to the beginning of its code."""
    for lane in range(len(coder)):
        coder[lane, 0], coder[lane, 1], coder[lane, 2] = 0, _TOP, starts[lane]
        for _ in range(_RANGE_BITS // 8):
            coder[lane, 0] = (coder[lane, 0] << 8) | _next_byte(coder, code, ends, lane)


@njit(cache=True, nogil=True, error_model="numpy")
def _share_of(coder, total):  # type: ignore[no-untyped-def]
    """Return where in `total` a lane's value is."""
    return max(min(coder[0] // (coder[1] // total), total - 1), 0)


@njit(cache=True, nogil=True, error_model="numpy")
def _read(coder, code, ends, lane, first, size, total):  # type: ignore[no-untyped-def]
    part = coder[lane, 1] // total
    coder[lane, 0] -= part * first
    coder[lane, 1] = part * size
    while coder[lane, 1] < _BOTTOM:
        coder[lane, 0] = (coder[lane, 0] << 8) | _next_byte(coder, code, ends, lane)
        coder[lane, 1] <<= 8


@njit(cache=True, nogil=True, error_model="numpy")
def read_tokens(logits, has_text, tokens, pieces, text, counts, code, first, last):  # type: ignore[no-untyped-def]
    """Read the next token of each lane from `first` to `last`, and the bytes before it.

    `pieces` = the bytes of all tokens, and where each one's begin; `text` = the lanes' texts, and
    how many bytes of each are there and shall be; `code` = coder, code, ends. Returns as
    `write_tokens`.
    """
    flags, bytes_seen, states = counts
    coder, given, ends = code
    token_bytes, offsets = pieces
    out, sizes = text
    numbers = np.empty(logits.shape[1], np.int64)
    n_ended = 0
    for lane in range(first, last):
        if states[lane] != 0:
            continue
        while states[lane] == 0:
            if sizes[lane, 0] == sizes[lane, 1]:
                states[lane] = DONE
                break
            share = _byte_share(flags[lane])
            if _share_of(coder[lane], 1 << _FLAG_BITS) < share:
                _read(coder, given, ends, lane, 0, share, 1 << _FLAG_BITS)
                _count_flag(flags[lane], 0)
                seen = bytes_seen[lane]
                wanted, before, byte = _share_of(coder[lane], seen[_BYTES]), np.int64(0), 0
                while before + seen[byte] <= wanted:
                    before += seen[byte]
                    byte += 1
                _read(coder, given, ends, lane, before, seen[byte], seen[_BYTES])
                _count_byte(seen, byte)
                out[lane, sizes[lane, 0]] = np.uint8(byte)
                sizes[lane, 0] += 1
            else:
                rest = (1 << _FLAG_BITS) - share
                _read(coder, given, ends, lane, share, rest, 1 << _FLAG_BITS)
                _count_flag(flags[lane], 1)
                total = frequencies(logits[lane], has_text, numbers)
                if total == 0:
                    states[lane] = NOT_NUMBERS
                    break
                wanted, before, token = _share_of(coder[lane], total), np.int64(0), 0
                while before + numbers[token] <= wanted:
                    before += numbers[token]
                    token += 1
                _read(coder, given, ends, lane, before, numbers[token], total)
                tokens[lane] = token
                size = offsets[token + 1] - offsets[token]
                if sizes[lane, 0] + size > sizes[lane, 1]:
                    states[lane] = DAMAGED
                    break
                for i in range(size):
                    out[lane, sizes[lane, 0] + i] = token_bytes[offsets[token] + i]
                sizes[lane, 0] += size
                if sizes[lane, 0] == sizes[lane, 1]:
                    states[lane] = DONE
                break
        n_ended += states[lane] != 0
    return n_ended
