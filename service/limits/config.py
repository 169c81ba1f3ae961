"""Times of limits and usage, in one frozen value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LimitConfig:
    """Values that every part of the package is constructed with."""

    lease_s: float = 30.0  # a process that has died holds its requests' capacity for so long
    call_timeout_s: float = 2.0  # of a store that does not answer
    retry_s: float = 1.0  # between questions to a store that did not answer
    busy_retry_s: float = 1.0  # advised where only the end of another request helps
    usage_flush_s: float = 2.0  # between writes of the counts: a crash loses as much
    usage_days: int = 400  # that counts are kept
