"""Counter-based random numbers: the number at a position is a function of (seed, position).

Philox 4x64 with 10 rounds, key (seed, 0), counter (position, 0, 0, 0), first word of the block.
Source: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

import numpy as np
from numba import njit, uint64

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_ROUNDS = 10
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_TO_UNIT = 2.0**-53


@njit(uint64(uint64, uint64), cache=True, nogil=True, inline="always")
def _high_product(a, b):  # type: ignore[no-untyped-def]
    """The upper 64 bits of a 128-bit product."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = a_high * b_low + ((a_low * b_low) >> _HALF)
    other = a_low * b_high + (middle & _LOW)
    return a_high * b_high + (middle >> _HALF) + (other >> _HALF)


@njit("float64(uint64, uint64)", cache=True, nogil=True)
def uniform(seed, position):  # type: ignore[no-untyped-def]
    """Return the number in [0, 1) that belongs to (seed, position), with 53 random bits."""
    a, b, c, d = position, np.uint64(0), np.uint64(0), np.uint64(0)
    key_0, key_1 = seed, np.uint64(0)
    for _ in range(_ROUNDS):
        high_0, low_0 = _high_product(_MULTIPLIER_0, a), _MULTIPLIER_0 * a
        high_1, low_1 = _high_product(_MULTIPLIER_1, c), _MULTIPLIER_1 * c
        a, b, c, d = high_1 ^ b ^ key_0, low_1, high_0 ^ d ^ key_1, low_0
        key_0, key_1 = key_0 + _WEYL_0, key_1 + _WEYL_1
    return np.float64(a >> np.uint64(11)) * _TO_UNIT
