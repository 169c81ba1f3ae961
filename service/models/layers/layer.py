"""The interface of a layer that is not recurrent."""

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Layer(ABC):
    """A layer of a model between its input and its output.

    `inputs` are what it reads: 0 is the embedding (or the one-hot input), i + 1 the output of
    `ModelSpec.layers[i]`. Empty: the output of the layer before. Its values are (steps, width), or
    (width,) after a layer that reduces the steps of a window.
    """

    kind: ClassVar[str]  # its name in manifests
    inputs: tuple[int, ...] = ()
