"""The recipe of a training: everything but the text that decides its outcome."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from service.models.cell import LayerSpec
from service.models.spec import ModelSpec

WantedArithmetic = Literal["auto", "float32", "bfloat16"]
"""The type of the matrix products' operands; `auto` is bfloat16 where the machine has it."""

WantedRecurrence = Literal["auto", "own", "cudnn"]
"""What computes the recurrent layers; `auto` measures cuDNN on a GPU, elsewhere it is our own."""


USUAL_CHARACTERS, MOST_USUAL_EPOCHS = 13_400_000, 200
"""By default training reads so many characters in all, in at most so many epochs."""


def usual_epochs(n_characters: int) -> int:
    """The default number of epochs for a text of so many characters."""
    return max(1, min(MOST_USUAL_EPOCHS, round(USUAL_CHARACTERS / max(1, n_characters))))


def split_index(n_characters: int, validation_fraction: float) -> int:
    """The index of the first character of the validation part."""
    return round(n_characters * (1.0 - validation_fraction))


@dataclass(frozen=True, slots=True)
class Architecture:
    """The layers of a model: embedding → equal recurrent layers → dense."""

    cell: str = "lstm"
    embedding_dim: int = 256
    units: int = 768
    layers: int = 1
    dropout: float = 0.5

    def spec(self, vocabulary_size: int) -> ModelSpec:
        """The specification of the trained model. Raises BadCheckpoint outside a model's limits."""
        layer = LayerSpec(self.cell, self.units)
        return ModelSpec(vocabulary_size, self.embedding_dim, (layer,) * self.layers)


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """The hyperparameters of a training: batches, optimizer, regularization and stopping.

    The model is evaluated `validations_per_epoch` times in each epoch; training stops after
    `patience` validations without a better one.
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
    weight_ema: float = 0.99  # "averaging" in JSON

    def to_json(self) -> dict[str, Any]:
        """The hyperparameters as plain JSON values."""
        values = asdict(self)
        values["averaging"] = values.pop("weight_ema")
        return values

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The hyperparameters that `to_json` wrote."""
        return cls(**{"weight_ema" if k == "averaging" else k: v for k, v in value.items()})


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a training; the same recipe on the same text is the same training."""

    architecture: Architecture = field(default_factory=Architecture)
    schedule: Hyperparameters = field(default_factory=Hyperparameters)
    seed: int = 0
    precision: WantedArithmetic = "auto"
    recurrence: WantedRecurrence = "auto"

    def to_json(self) -> dict[str, object]:
        """The recipe as plain JSON values."""
        values = asdict(self) | {"schedule": self.schedule.to_json()}
        if self.recurrence == "auto":  # as the recipes of trainings that began without it
            del values["recurrence"]
        return values
