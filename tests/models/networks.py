"""Small networks of every kind, with random weights."""

import numpy as np

from service.models.cell import Activation, LayerSpec
from service.models.spec import ModelSpec, Weights

VOCABULARY_SIZE = 17


def spec_of(*layers: LayerSpec, embedding_dim: int | None = 8) -> ModelSpec:
    return ModelSpec(VOCABULARY_SIZE, embedding_dim, layers)


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
}


def random_weights(spec: ModelSpec, seed: int = 7, scale: float = 0.4) -> Weights:
    rng = np.random.default_rng(seed)
    return Weights(
        spec,
        {
            name: (scale * rng.standard_normal(shape)).astype(np.float32)
            for name, shape in spec.weight_shapes.items()
        },
    )
