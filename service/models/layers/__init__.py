"""The layers around the recurrent ones, as Keras computes them in inference."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from service.models.cell import Activation
from service.models.layers.layer import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense(Layer):
    """φ(x W + b). Weights: kernel (width, units), bias (units,)."""

    kind = "dense"
    units: int
    activation: Activation = Activation.LINEAR
    use_bias: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationLayer(Layer):
    """φ(x)."""

    kind = "activation"
    activation: Activation


@dataclass(frozen=True, slots=True)
class ScaleShift(Layer):
    """x ⊙ scale + shift, as a BatchNormalization in inference. Weights: scale, shift, (width,)."""

    kind = "scale_shift"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNormalization(Layer):
    """γ (x - mean) / √(variance + ε) + β over the last axis. Weights: gamma, beta, (width,)."""

    kind = "layer_normalization"
    epsilon: float = 0.001


class MergeMode(StrEnum):
    """How several inputs of the same shape, or with CONCATENATE of any width, become one."""

    CONCATENATE = "concatenate"
    ADD = "add"
    MULTIPLY = "multiply"
    AVERAGE = "average"


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge(Layer):
    """The inputs, two or more, as one."""

    kind = "merge"
    mode: MergeMode


class StepOf(StrEnum):
    """Which step of a window."""

    FIRST = "first"  # the end of a recurrent layer that goes backwards
    LAST = "last"


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectStep(Layer):
    """One step of a window: (steps, width) → (width,). Keras: return_sequences=False."""

    kind = "select_step"
    step: StepOf = StepOf.LAST


@dataclass(frozen=True, slots=True)
class Flatten(Layer):
    """All steps of a window in one row: (steps, width) → (steps * width,)."""

    kind = "flatten"


@dataclass(frozen=True, slots=True)
class AttentionAverage(Layer):
    """The attention-weighted average of a window's steps: (steps, width) → (width,).

    s_t = x_t · w, a = exp(s - max s) / (Σ exp(s - max s) + 1e-7), y = Σ a_t x_t, the pads counted.
    Weights: kernel (width, 1). Source: textgenrnn, `AttentionWeightedAverage`.
    """

    kind = "attention_average"


LAYERS: Mapping[str, type[Layer]] = MappingProxyType(
    {
        layer.kind: layer
        for layer in (
            *(Dense, ActivationLayer, ScaleShift, LayerNormalization),
            *(Merge, SelectStep, Flatten, AttentionAverage),
        )
    }
)
"""Every layer by its kind."""
