"""What is trained and how: everything but the text that decides the outcome."""

from dataclasses import asdict, dataclass, field
from typing import Literal

from service.models.layer import LayerSpec
from service.models.spec import ModelSpec

WantedArithmetic = Literal["auto", "float32", "bfloat16"]
"""The type of the matrix products' operands; `auto` is bfloat16 where the machine has it."""


USUAL_CHARACTERS, MOST_USUAL_EPOCHS = 13_400_000, 200
"""Characters that are read in all where nobody says how often; and how often at most."""


def usual_epochs(n_characters: int) -> int:
    """Passes over a text of so many characters where nobody says how many."""
    return max(1, min(MOST_USUAL_EPOCHS, round(USUAL_CHARACTERS / max(1, n_characters))))


def split_index(n_characters: int, validation_fraction: float) -> int:
    """Where in a text of so many characters its validation part begins."""
    return round(n_characters * (1.0 - validation_fraction))


@dataclass(frozen=True, slots=True)
class Architecture:
    """Embedding → equal recurrent layers → dense."""

    cell: str = "lstm"
    embedding_dim: int = 256
    units: int = 768
    layers: int = 1
    dropout: float = 0.5

    def spec(self, vocabulary_size: int) -> ModelSpec:
        """The model that is served in the end. Raises BadCheckpoint outside a model's limits."""
        layer = LayerSpec(self.cell, self.units)
        return ModelSpec(vocabulary_size, self.embedding_dim, (layer,) * self.layers)


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """How the text is read, how far a step goes, and when to stop.

    Validation happens `validations_per_epoch` times in each pass over the text; training ends
    after `patience` validations without a better one.
    """

    epochs: int = 12
    batch_size: int = 64
    sequence_length: int = 50
    learning_rate: float = 3e-3
    validation_fraction: float = 0.1
    patience: int = 10
    max_seconds: float | None = None
    validations_per_epoch: int = 2
    warm_up_share: float = 0.03
    final_rate_share: float = 0.01
    weight_decay: float = 1e-2
    gradient_norm: float = 1.0
    embedding_dropout: float = 0.1
    recurrent_weight_drop: float = 0.4
    averaging: float = 0.99


@dataclass(frozen=True, slots=True)
class Recipe:
    """An architecture, a schedule and a seed; the same recipe on the same text is the same run."""

    architecture: Architecture = field(default_factory=Architecture)
    schedule: Hyperparameters = field(default_factory=Hyperparameters)
    seed: int = 0
    precision: WantedArithmetic = "auto"

    def to_json(self) -> dict[str, object]:
        """The recipe as plain JSON values."""
        return asdict(self)
