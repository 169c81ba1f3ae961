"""The settings of the memory allocator in a process that trains."""

from collections.abc import Mapping
from types import MappingProxyType

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
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
"""Environment variables of such a process: glibc reads them once, before Python begins."""
