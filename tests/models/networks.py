"""Small networks of every kind, with random weights."""

import numpy as np

from service.models.cell import Activation, LayerSpec
from service.models.layers import (
    ActivationLayer,
    AttentionAverage,
    Dense,
    Flatten,
    LayerNormalization,
    Merge,
    MergeMode,
    ReLU,
    Rescaling,
    ScaleShift,
    SelectStep,
    StepOf,
)
from service.models.spec import AnyLayer, ModelSpec, Weights
from service.models.window import Padding, Window

VOCABULARY_SIZE = 17


def spec_of(*layers: AnyLayer, embedding_dim: int | None = 8, **fields: object) -> ModelSpec:
    return ModelSpec(VOCABULARY_SIZE, embedding_dim, layers, **fields)


SPECS = {
    "lstm": spec_of(LayerSpec("lstm", 24)),
    "lstm, one-hot, no bias": spec_of(LayerSpec("lstm", 24, use_bias=False), embedding_dim=None),
    "two lstms": spec_of(LayerSpec("lstm", 24), LayerSpec("lstm", 19)),
    "peephole": spec_of(LayerSpec("peephole_lstm", 24)),
    "gru": spec_of(LayerSpec("gru", 24)),
    "gru, reset before": spec_of(LayerSpec("gru", 24, reset_after=False)),
    "gru, no bias": spec_of(LayerSpec("gru", 24, use_bias=False)),
    "lstm on gru": spec_of(LayerSpec("gru", 24), LayerSpec("lstm", 20)),
    "hard sigmoid of Keras 2": spec_of(
        LayerSpec("lstm", 24, recurrent_activation=Activation.HARD_SIGMOID_02)
    ),
    "hard sigmoid of Keras 3": spec_of(
        LayerSpec("gru", 24, recurrent_activation=Activation.HARD_SIGMOID_6)
    ),
    "relu": spec_of(LayerSpec("lstm", 24, activation=Activation.RELU)),
    "wide vocabulary": ModelSpec(300, 8, (LayerSpec("lstm", 24),), output_bias=False),
    "simple rnn": spec_of(LayerSpec("simple_rnn", 6), LayerSpec("simple_rnn", 5, use_bias=False)),
    "dense head": spec_of(
        LayerSpec("lstm", 24),
        SelectStep(),
        Dense(units=13, activation=Activation.RELU),
        ScaleShift(),
        Dense(units=9, activation=Activation.TANH, use_bias=False),
    ),
    "norms between": spec_of(
        LayerNormalization(),
        LayerSpec("gru", 24),
        LayerNormalization(epsilon=0.01),
        LayerSpec("lstm", 12),
        ActivationLayer(activation=Activation.RELU),
    ),
    "rectified and rescaled": spec_of(
        Rescaling(scale=0.5, offset=0.25),
        LayerSpec("gru", 24),
        ReLU(negative_slope=0.3),
        LayerSpec("lstm", 12),
        ReLU(negative_slope=0.25, max_value=0.1),
        Rescaling(scale=3.0),
    ),
    "dense first, one-hot": spec_of(Dense(units=6), LayerSpec("lstm", 12), embedding_dim=None),
    "skip connections": spec_of(
        LayerSpec("lstm", 8),
        LayerSpec("lstm", 8),
        Merge(mode=MergeMode.CONCATENATE, inputs=(0, 1, 2)),
        LayerSpec("gru", 8),
        Merge(mode=MergeMode.ADD, inputs=(1, 4)),
        Merge(mode=MergeMode.MULTIPLY, inputs=(5, 2)),
        Merge(mode=MergeMode.AVERAGE, inputs=(6, 1, 2)),
    ),
    "masked token": spec_of(LayerSpec("lstm", 12), LayerSpec("gru", 7), mask_token=3),
}
"""Models whose state is carried."""

BIDIRECTIONAL: tuple[AnyLayer, ...] = (
    LayerSpec("lstm", 9),
    LayerSpec("lstm", 9, go_backwards=True, inputs=(0,)),
    Merge(mode=MergeMode.CONCATENATE, inputs=(1, 2)),
    LayerSpec("gru", 7),
    LayerSpec("gru", 7, go_backwards=True, inputs=(3,)),
    SelectStep(inputs=(4,)),
    SelectStep(step=StepOf.FIRST, inputs=(5,)),
    Merge(mode=MergeMode.AVERAGE, inputs=(6, 7)),
)
STACK: tuple[AnyLayer, ...] = (LayerSpec("lstm", 24), LayerSpec("lstm", 19), SelectStep())
LENGTH = 11

WINDOWED = {
    "masked skip connections": spec_of(
        LayerSpec("lstm", 8),
        Merge(mode=MergeMode.ADD, inputs=(0, 1)),
        LayerSpec("gru", 8),
        Merge(mode=MergeMode.CONCATENATE, inputs=(2, 3)),
        ReLU(negative_slope=0.3),
        LayerSpec("lstm", 5),
        SelectStep(),
        window=Window(LENGTH, Padding.LEFT, 0),
        mask_token=0,
    ),
    "rectified from a threshold on": spec_of(
        LayerSpec("lstm", 12),
        ReLU(negative_slope=0.25, threshold=0.05, max_value=0.1),
        LayerSpec("gru", 7),
        Rescaling(scale=3.0, offset=0.5),
        window=Window(LENGTH, Padding.LEFT, 0),
    ),
    "left, token": spec_of(*STACK, window=Window(LENGTH, Padding.LEFT, 0)),
    "left, masked": spec_of(*STACK, window=Window(LENGTH, Padding.LEFT, 0), mask_token=0),
    "left, zeros": spec_of(*STACK, window=Window(LENGTH, Padding.LEFT), embedding_dim=None),
    "left, zeros, masked": spec_of(
        *STACK, window=Window(LENGTH, Padding.LEFT), embedding_dim=None, mask_zero_input=True
    ),
    "right, token": spec_of(*STACK, window=Window(LENGTH, Padding.RIGHT, 2)),
    "right, masked": spec_of(*STACK, window=Window(LENGTH, Padding.RIGHT, 2), mask_token=2),
    "sliding": spec_of(
        *STACK, window=Window(LENGTH, Padding.RIGHT, is_sliding=True), embedding_dim=None
    ),
    "right, first tokens": spec_of(
        *STACK, window=Window(LENGTH, Padding.RIGHT, 0, keeps_first=True)
    ),
    "never padded": spec_of(*STACK, window=Window(LENGTH, Padding.NONE)),
    "length 1": spec_of(*STACK, window=Window(1, Padding.LEFT, 0)),
    "bidirectional": spec_of(*BIDIRECTIONAL, window=Window(LENGTH, Padding.LEFT, 0)),
    "bidirectional, masked": spec_of(
        *BIDIRECTIONAL, window=Window(LENGTH, Padding.LEFT, 0), mask_token=0
    ),
    "flatten": spec_of(
        LayerSpec("lstm", 9), Flatten(), Dense(units=7), window=Window(LENGTH, Padding.LEFT, 0)
    ),
    "attention over skips": spec_of(
        LayerSpec("lstm", 9),
        LayerSpec("lstm", 9),
        Merge(mode=MergeMode.CONCATENATE, inputs=(0, 1, 2)),
        AttentionAverage(),
        window=Window(LENGTH, Padding.LEFT, 0),
    ),
    "dense, norms, simple rnn": spec_of(
        Dense(units=6, activation=Activation.RELU),
        LayerSpec("simple_rnn", 12),
        LayerNormalization(),
        LayerSpec("gru", 7, reset_after=False),
        SelectStep(),
        ScaleShift(),
        window=Window(LENGTH, Padding.LEFT, 4),
    ),
}
"""Models that read a window for each token."""


def random_weights(spec: ModelSpec, seed: int = 7, scale: float = 0.4) -> Weights:
    rng = np.random.default_rng(seed)
    return Weights(
        spec,
        {
            name: (scale * rng.standard_normal(shape)).astype(np.float32)
            for name, shape in spec.weight_shapes.items()
        },
    )
