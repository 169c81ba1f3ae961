"""Responses about corpora and train jobs. Source: docs/reference/http.md, "Training"."""

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from carousel_client.responses import Json, build


@dataclass(frozen=True, slots=True)
class Corpus:
    """A stored text to train on."""

    id: str
    name: str
    size_bytes: int
    characters: int
    vocabulary_size: int
    sha256: str
    created_at: datetime

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        return build(cls, body, size_bytes=body["bytes"])


@dataclass(frozen=True, slots=True)
class TrainJob:
    """The current record of a train job, with every default filled in."""

    id: str
    status: str  # queued, running, succeeded, failed or cancelled
    name: str
    corpus: str
    architecture: Json
    training: Json
    seed: int
    attempt: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    progress: Json | None
    validation: Json | None  # the last one
    best: Json | None
    model: str | None  # name@version, once it is stored
    error: Json | None

    @property
    def is_finished(self) -> bool:
        """Whether the training has ended, with whichever outcome."""
        return self.status not in {"queued", "running"}

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        return build(cls, body)


@dataclass(frozen=True, slots=True)
class TrainJobEvent:
    """An event of a train job."""

    id: str  # where to resume after this event
    name: str  # progress, validation, sample, checkpoint, published or done
    body: Json
