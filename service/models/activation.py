"""Element-wise functions of gates and candidates."""

from collections.abc import Callable
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


class Activation(StrEnum):
    """An element-wise function by name; calling it applies it to a float64 array.

    Keras 1, Keras 2 and tf_keras use the name hard_sigmoid for `clip(0.2 x + 0.5, 0, 1)`, Keras 3
    for `clip(x / 6 + 0.5, 0, 1)`: the slope is part of the name here.
    """

    LINEAR = "linear"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    HARD_SIGMOID_02 = "hard_sigmoid_02"
    HARD_SIGMOID_6 = "hard_sigmoid_6"
    RELU = "relu"

    def __call__(self, x: Vector) -> Vector:
        """Apply the function."""
        return _FUNCTIONS[self](x)

    @property
    def is_gate(self) -> bool:
        """Whether every value is in [0, 1]."""
        return self in {self.SIGMOID, self.HARD_SIGMOID_02, self.HARD_SIGMOID_6}


_FUNCTIONS: dict[Activation, Callable[[Vector], Vector]] = {
    Activation.LINEAR: lambda x: x,
    Activation.TANH: np.tanh,
    Activation.SIGMOID: lambda x: 0.5 * (np.tanh(0.5 * x) + 1.0),
    Activation.HARD_SIGMOID_02: lambda x: np.clip(0.2 * x + 0.5, 0.0, 1.0),
    Activation.HARD_SIGMOID_6: lambda x: np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    Activation.RELU: lambda x: np.maximum(x, 0.0),
}
