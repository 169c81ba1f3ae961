"""How a process that trains asks for memory."""

from collections.abc import Mapping
from types import MappingProxyType

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # The arrays of a window are freed and asked for again at each step. glibc would give them
        # back to the kernel, whose pages come back empty one fault at a time; and in pages of
        # 4 KiB the matrix products miss the TLB. Together an eighth of a step, on Linux.
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "MALLOC_TRIM_THRESHOLD_": "8589934592",
        "MALLOC_TOP_PAD_": "1048576",
    }
)
"""Variables to start such a process with: glibc reads them once, before Python begins."""
