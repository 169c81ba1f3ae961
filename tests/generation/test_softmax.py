"""The softmax of a wide vocabulary: its accuracy, and its vector instructions."""

import platform
import re

import numpy as np
import pytest
from numba import njit

from service.generation import softmax

WIDE = np.random.default_rng(8).normal(0.0, 4.0, 20_003).astype(np.float32)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1e-300, 1e-310, 1e300])
def test_the_wide_exponentials_are_those_of_numpy(temperature):
    weights = np.empty(len(WIDE))
    largest = softmax.maximum(WIDE)
    softmax.exponentials(WIDE, largest, temperature, weights)
    with np.errstate(over="ignore", under="ignore"):
        wanted = np.exp((WIDE.astype(np.float64) - WIDE.max()) / temperature)
    np.testing.assert_allclose(weights, wanted, rtol=1e-13, atol=1e-300)
    assert softmax.total(weights) == pytest.approx(wanted.sum(), rel=1e-13)


def test_a_wide_exponential_has_the_error_that_its_docstring_names():
    scores = -np.linspace(0.0, 60.0, 1_000_003).astype(np.float32)
    weights = np.empty(len(scores))
    softmax.exponentials(scores, 0.0, 1.0, weights)
    wanted = np.exp(scores.astype(np.longdouble))
    allowed = 5e-16 + 2e-16 * np.abs(scores)
    assert (np.abs(weights / wanted - 1) < allowed).all()


@pytest.mark.parametrize("size", [1, 7, 40, 512, 513, 20_003])
def test_the_maximum_is_that_of_numpy(size):
    for row in (WIDE[:size], -np.abs(WIDE[:size]), np.full(size, -np.inf, np.float32)):
        assert softmax.maximum(row) == row.max()


@pytest.mark.parametrize("poison", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("size", [40, 20_003])
def test_logits_that_are_not_finite_have_no_sum(poison, size):
    row = WIDE[:size].copy()
    row[size // 2] = poison
    assert np.isnan(softmax.logsumexp(row[None])[0])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the instructions of x86")
@pytest.mark.parametrize(
    ("kernel", "arguments", "instruction", "at_least"),
    [
        (softmax.maximum, (WIDE,), r"(pmaxs[dq]|pcmpgtq)\s", 4),
        (
            softmax._wide_exponentials,
            (WIDE, 1.0, 1.0, np.empty(len(WIDE))),
            r"(vfmadd\w+|mul)pd\s",
            10,  # the terms of the polynomial; a loop of calls has one
        ),
    ],
    ids=["maximum", "exponentials"],
)
def test_the_loops_over_a_wide_vocabulary_have_vector_instructions(
    kernel, arguments, instruction, at_least
):
    options = {k: v for k, v in kernel.targetoptions.items() if k != "nopython"}
    fresh = njit(**options)(kernel.py_func)  # a kernel from Numba's cache has no assembly
    fresh(*arguments)
    assert len(re.findall(instruction, fresh.inspect_asm(fresh.signatures[0]))) >= at_least
