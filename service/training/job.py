"""A train job as its record describes it. No clock, no I/O."""

from dataclasses import dataclass
from typing import Any

from service.training.job_spec import TrainJobSpec
from service.training.states import JobState, JobStatus


@dataclass(frozen=True, slots=True)
class JobKey:
    """The owner and the id of a job. The same id of another owner is another job."""

    owner: str
    id: str

    def __str__(self) -> str:
        return f"{self.owner}/{self.id}"


@dataclass(frozen=True, slots=True)
class TrainJob:
    """A train job at one moment. Times are seconds since 1970."""

    key: JobKey
    spec: TrainJobSpec
    state: JobState
    attempt: int  # counts from 1; only the latest may change anything
    crashes: int
    created_s: float
    started_s: float | None
    ended_s: float | None
    progress: dict[str, Any] | None
    validation: dict[str, Any] | None
    best: dict[str, Any] | None
    version: int | None  # reserved for its model, once there is one
    model: str | None
    error: dict[str, str] | None

    @property
    def status(self) -> JobStatus:
        """The status that the API reports."""
        return self.state.status

    def to_json(self) -> dict[str, Any]:
        """The job as the API shows it to its owner."""
        return {
            "id": self.key.id,
            "status": self.status,
            **self.spec.to_json(),
            "attempt": self.attempt,
            "created_at": self.created_s,
            "started_at": self.started_s,
            "ended_at": self.ended_s,
            "progress": self.progress,
            "validation": self.validation,
            "best": self.best,
            "model": self.model,
            "error": self.error,
        }
