"""The events that a training reports; `kind` is an event's name. Losses are nats a character."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """The progress of a training, reported about once a second."""

    kind: ClassVar = "progress"
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

    kind: ClassVar = "validation"
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

    kind: ClassVar = "checkpoint"
    step: int
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class SampleEvent:
    """A sample of the model, from the same random numbers each time."""

    kind: ClassVar = "sample"
    step: int
    text: str


TrainEvent = ProgressEvent | ValidationEvent | SampleEvent | CheckpointEvent
