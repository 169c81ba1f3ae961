"""What a training says while it runs. Losses are nats a character."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the training is; said about once a second."""

    step: int
    n_steps: int
    epoch: float
    training_nats: float
    characters_per_second: float
    eta_s: float
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Validation:
    """What the whole validation text costs; `training_nats` is the mean since the one before."""

    step: int
    n_steps: int
    epoch: float
    training_nats: float
    validation_nats: float
    bits_per_character: float
    bits_per_byte: float
    perplexity: float
    elapsed_s: float
    is_best: bool

    @property
    def summary(self) -> str:
        """The validation on one line."""
        return (
            f"step {self.step}/{self.n_steps}, epoch {self.epoch:.2f}: "
            f"{self.training_nats:.4f} nats a character in training, "
            f"{self.validation_nats:.4f} in validation, {self.elapsed_s:.0f} s"
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file from which training goes on (`last`), or whose weights are to be served (`best`)."""

    step: int
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Sample:
    """What the model writes, from the same draws each time."""

    step: int
    text: str


TrainEvent = Progress | Validation | Sample | Checkpoint


def perplexity(nats: float) -> float:
    """e^loss, infinite where that does not fit a float."""
    return math.exp(nats) if nats < 700.0 else math.inf
