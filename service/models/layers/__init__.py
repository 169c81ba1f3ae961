"""The layers around the recurrent ones, as Keras computes them in inference."""

from collections.abc import Mapping
from types import MappingProxyType

from service.models.layers.dense import ActivationLayer, Dense, LayerNormalization, ScaleShift
from service.models.layers.element import ReLU, Rescaling
from service.models.layers.layer import Layer
from service.models.layers.merge import Merge, MergeMode
from service.models.layers.steps import AttentionAverage, Flatten, SelectStep, StepOf

LAYERS: Mapping[str, type[Layer]] = MappingProxyType(
    {
        layer.kind: layer
        for layer in (
            *(Dense, ActivationLayer, ReLU, Rescaling, ScaleShift, LayerNormalization),
            *(Merge, SelectStep, Flatten, AttentionAverage),
        )
    }
)
"""Every layer by its kind."""

__all__ = [
    "LAYERS",
    "ActivationLayer",
    "AttentionAverage",
    "Dense",
    "Flatten",
    "LayerNormalization",
    "Merge",
    "MergeMode",
    "ReLU",
    "Rescaling",
    "ScaleShift",
    "SelectStep",
    "StepOf",
]
