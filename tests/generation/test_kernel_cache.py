"""A file whose compiled kernels call those of other files names their hash.

Numba caches a compiled kernel until its own file changes, and does not see a change of a callee.
"""

import hashlib
from pathlib import Path

import pytest

from service.generation import constraint_mask, random, sampling, threaded_burst
from service.models import int8_gemm, int8_step


@pytest.mark.parametrize(
    ("caller", "called"),
    [
        (sampling, [constraint_mask, random]),
        (int8_step, [int8_gemm]),
        (threaded_burst, [sampling, int8_step]),
    ],
    ids=["sampling", "int8_step", "threaded_burst"],
)
def test_a_file_of_kernels_changes_with_the_kernels_that_it_calls(caller, called):
    content = b"".join(Path(module.__file__).read_bytes() for module in called)
    assert hashlib.sha256(content).hexdigest()[:16] == caller.CALLED_KERNELS
