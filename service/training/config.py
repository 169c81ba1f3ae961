"""The limits and times of train jobs, with the values that a server and its workers use."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

ALLOCATOR_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # The arrays of a chunk are freed and allocated again at each step. By default glibc returns
        # them to the kernel, and each new page costs a fault; and with pages of 4 KiB the matrix
        # products miss the TLB. Both together are an eighth of a step, on Linux.
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "MALLOC_TRIM_THRESHOLD_": "8589934592",
        "MALLOC_TOP_PAD_": "1048576",
    }
)
"""Environment variables of a process that trains: glibc reads them once, before Python begins."""


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """Limits of the queue of train jobs."""

    lease_ms: int = 8_000  # an attempt that has not renewed its lease for so long is lost
    start_ms: int = 60_000  # from taking a job until its process claims it
    answer_limit_s: float = 2.0  # for one answer of Redis
    max_open_jobs: int = 100  # of one owner
    max_events: int = 500  # in one answer
    max_crashes: int = 3  # after so many the job itself is the likely cause, and it fails


@dataclass(frozen=True, slots=True)
class AttemptConfig:
    """Times of one attempt, in seconds."""

    heartbeat_s: float = 0.5
    stop_limit_s: float = 3.0  # an attempt that stops, in a step longer than this, is ended there
    store_wait_s: float = 30.0  # how long a finished training waits for an unavailable store
    store_retry_s: float = 0.5
