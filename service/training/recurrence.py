"""The interface of a cell's gradient, and the arrays over time that its loops fill.

Autodiff would keep every intermediate value, and would add to the gradient of the recurrent kernel
once per time step. Here the backward loop yields only dz, the gradient at the gates' inputs; a
weight's gradient is then one matrix product over all streams and steps.

Arrays that enter a product over all steps are columns, (features, time, streams): a step's product
is then kernelᵀ @ h, and a weight's gradient reads both its factors row by row. Arrays that are only
kept for the backward loop are pages, (time, features, streams): one page per step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from service.training.matmul import MatMul

Tensors = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Recurrence:
    """One cell over a chunk of time, with tanh, sigmoid and `reset_after`, differentiable.

    `make(product)` returns a function for use in what XLA compiles. Its arguments are x W + b,
    (gates * units, time, streams); the recurrent kernel, (units, gates * units); the weights of
    `extra_weights`; and the state before the first step, each (units, streams). It returns every
    h, (units, time, streams), and the state after the last step. Its gradient is its own.
    """

    make: Callable[[MatMul], Any]
    extra_weights: tuple[str, ...] = ()  # `recurrent_bias` is the second row of a bias of two


def columns_like(step: Any, steps: int) -> Any:
    """Allocate (features, steps, streams) for a (features, streams) of every step.

    The initial content is never used. It is not a constant, because XLA shares equal constants
    between arrays and then copies them.
    """
    features, streams = step.shape
    return tf.fill((features, steps, streams), step[0, 0])


def pages_like(step: Any, steps: int) -> Any:
    """Allocate (steps, features, streams) for a (features, streams) of every step."""
    return tf.fill((steps, *step.shape), step[0, 0])


def with_column(array: Any, t: Any, column: Any) -> Any:
    """Return the columns with one step written: in place when compiled."""
    return xla.dynamic_update_slice(array, column[:, None], [0, t, 0])


def with_page(array: Any, t: Any, page: Any) -> Any:
    """Return the pages with one step written: in place when compiled."""
    return xla.dynamic_update_slice(array, page[None], [t, 0, 0])


def shifted(first: Any, columns: Any) -> Any:
    """Return the columns one step later: `first`, then all columns but the last."""
    return tf.concat([first[:, None], columns[:, :-1]], axis=1)
