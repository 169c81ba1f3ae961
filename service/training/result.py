"""The result of a training, without TensorFlow."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from service.errors import BadCheckpoint
from service.models.spec import ModelSpec, Weights
from service.training import checkpoint
from service.training.events import ValidationEvent


class StopReason(StrEnum):
    """Why a training is over."""

    COMPLETED = "completed"
    OUT_OF_PATIENCE = "out_of_patience"
    OUT_OF_TIME = "out_of_time"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a training: the weights with the lowest validation loss, if any were evaluated.

    `elapsed_s` counts every run of the training, `history` every validation.
    """

    spec: ModelSpec
    weights: Weights | None
    best: ValidationEvent | None
    stop_reason: StopReason
    step: int
    n_steps: int
    history: tuple[ValidationEvent, ...]
    elapsed_s: float
    precision: str
    recurrence: dict[str, Any] = field(default_factory=dict)  # as `RecurrenceChoice.to_json`

    @classmethod
    def from_best(cls, path: Path, spec: ModelSpec) -> Self:
        """The result of a stopped training, from its best checkpoint. Raises BadCheckpoint."""
        snapshot = checkpoint.read(path)
        if snapshot is None:
            raise BadCheckpoint("the best checkpoint is missing")
        best = ValidationEvent(**snapshot.facts["validation"])
        history = snapshot.facts.get("history", [snapshot.facts["validation"]])
        return cls(
            spec,
            Weights(spec, snapshot.arrays),
            best,
            StopReason.STOPPED,
            best.step,
            best.n_steps,
            tuple(ValidationEvent(**validation) for validation in history),
            best.elapsed_s,
            snapshot.facts["identity"]["precision"],
            snapshot.facts["identity"].get("recurrence", {}),
        )
