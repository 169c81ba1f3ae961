"""A compiled kernel has in its cache key, or its file names, the hash of the kernels it calls.

Numba caches a compiled kernel until its own file changes, and does not see a change of a callee.
"""

import hashlib
from pathlib import Path

import pytest
from numba.core.registry import cpu_target

from service.generation import constraint_mask, filters, random, sampling, softmax
from service.generation.threaded_burst import _compiled
from service.models import int4_gemm, int8_gemm, int8_step, simd_tile, vnni_gemm


@pytest.mark.parametrize(
    ("caller", "called"),
    [
        (sampling, [constraint_mask, filters, random, softmax]),
        (filters, [softmax]),
        (int4_gemm, [simd_tile]),
        (int8_gemm, [simd_tile]),
        (vnni_gemm, [simd_tile]),
        (int8_step, [int4_gemm, int8_gemm, vnni_gemm]),
    ],
    ids=["sampling", "filters", "int4_gemm", "int8_gemm", "vnni_gemm", "int8_step"],
)
def test_a_file_of_kernels_changes_with_the_kernels_that_it_calls(caller, called):
    content = b"".join(Path(module.__file__).read_bytes() for module in called)
    assert hashlib.sha256(content).hexdigest()[:16] == caller.CALLED_KERNELS


def test_the_key_of_the_kernel_of_a_burst_has_the_hash_of_the_kernels_that_it_calls():
    codegen = cpu_target.target_context.codegen()
    keys = {_compiled(called)._cache._index_key((), codegen) for called in ("a", "b")}
    assert len(keys) == 2
