"""Limits and times of keys, in one frozen value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """Values that every part of the package is constructed with."""

    refresh_s: float = 2.0  # an older answer of the store is asked for again while it is used
    cache_s: float = 4.0  # an older one is not used: a revocation is late by as much
    grace_s: float = 60.0  # for how long a known key goes on while the store is away
    retry_s: float = 1.0  # between questions to a store that did not answer
    max_hits: int = 10_000
    max_misses: int = 1_000  # ids that the store does not know
    max_expires_in_s: float = 100 * 365 * 86_400.0
    max_rotation_grace_s: float = 30 * 86_400.0
    max_rotations: int = 16  # whose idempotency keys a record remembers
    max_models: int = 64
    max_keys: int = 10_000  # of a deployment, with those that are revoked
