"""The events that a training reports. Losses are nats a character."""

import math
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """The progress of a training, reported about once a second."""

    kind: ClassVar = "progress"  # the name of the event in the job's stream
    step: int
    n_steps: int
    epoch: float
    training_nats: float
    characters_per_second: float
    eta_s: float
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class ValidationEvent:
    """The loss over the validation text; `training_nats` is the mean since the previous one."""

    kind: ClassVar = "validation"  # the name of the event in the job's stream
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
class CheckpointEvent:
    """A saved checkpoint: `last`, to resume from, or `best`, whose weights are published."""

    kind: ClassVar = "checkpoint"  # the name of the event in the job's stream
    step: int
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class SampleEvent:
    """A sample of the model, from the same random numbers each time."""

    kind: ClassVar = "sample"  # the name of the event in the job's stream
    step: int
    text: str


TrainEvent = ProgressEvent | ValidationEvent | SampleEvent | CheckpointEvent


def perplexity(nats: float) -> float:
    """The perplexity, e^loss; infinite where that exceeds a float."""
    return math.exp(nats) if nats < 700.0 else math.inf
