"""What the server answers of texts and train jobs. Source: docs/reference/http.md, "Training"."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Corpus:
    """A stored text."""

    id: str
    name: str
    size_bytes: int
    characters: int
    vocabulary_size: int
    sha256: str
    created_at: datetime

    @classmethod
    def of(cls, body: Json) -> Self:
        """Read one."""
        return cls(
            body["id"],
            body["name"],
            body["bytes"],
            body["characters"],
            body["vocabulary_size"],
            body["sha256"],
            datetime.fromisoformat(body["created_at"]),
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A train job as it stands, every default written out."""

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
    def is_over(self) -> bool:
        """Whether nothing becomes of it any more."""
        return self.status not in {"queued", "running"}

    @classmethod
    def of(cls, body: Json) -> Self:
        """Read one."""
        return cls(
            body["id"],
            body["status"],
            body["name"],
            body["corpus"],
            body["architecture"],
            body["training"],
            body["seed"],
            body["attempt"],
            datetime.fromisoformat(body["created_at"]),
            _time(body["started_at"]),
            _time(body["ended_at"]),
            body["progress"],
            body["validation"],
            body["best"],
            body["model"],
            body["error"],
        )


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that was told of a job."""

    id: str  # where to go on after it
    name: str  # progress, validation, sample, checkpoint, published or done
    body: Json


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
