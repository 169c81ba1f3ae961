"""Every condition that Carousel reports, on one page.

    CarouselError
    ├── asked wrongly        BadRequest  Validation  Exists  UnknownCharacter  TooLarge  KeyReused
    ├── not there            ModelNotFound  SessionNotFound  SessionLost  JobNotFound
    │                        CorpusNotFound
    ├── not now              ModelNotReady  ModelUnloaded  ModelInUse  Overloaded  Draining
    │                        StoreUnavailable
    ├── not so               SessionBusy  SessionExists  StateModelMismatch  PositionMismatch
    ├── does not fit         MemoryBudgetExceeded  StoreFull
    ├── a foreign file       BadCheckpoint
    ├── while generating     Generation
    └── while training       OutOfTime

A condition knows its code and its sentence, not HTTP: `api/problems.py` holds the one table
from conditions to statuses. The sentence says what was received, the limit, and what to do.
"""

import contextlib
from collections.abc import Iterator
from typing import ClassVar


class CarouselError(Exception):
    """A named condition: `code` for programs, the message for people.

    `field` is the field of the request that it is about, where somebody knows it (`about`).
    """

    code: ClassVar[str]

    def __init__(self, sentence: str = "", field: str | None = None) -> None:
        super().__init__(sentence)
        self.field = field


class BadRequest(CarouselError):
    """The request cannot be read at all."""

    code = "bad_request"


class Validation(CarouselError):
    """A value of the request is outside its limits."""

    code = "validation"


class UnknownCharacter(CarouselError):
    """The text holds a character that the model has no token for."""

    code = "unknown_character"


class TooLarge(CarouselError):
    """A body or a file is larger than its limit."""

    code = "too_large"


class ModelNotFound(CarouselError):
    """No model, version or alias has this name."""

    code = "model_not_found"


class ModelNotReady(CarouselError):
    """The model is being loaded; the same request will do in a moment."""

    code = "model_not_ready"


class ModelUnloaded(CarouselError):
    """The model is stored but not loaded."""

    code = "model_unloaded"


class ModelInUse(CarouselError):
    """The model is loaded or an alias points at it."""

    code = "model_in_use"


class Overloaded(CarouselError):
    """The queue is full."""

    code = "overloaded"


class Draining(CarouselError):
    """The server is stopping and takes no new work."""

    code = "draining"


class MemoryBudgetExceeded(CarouselError):
    """Loading the model would take more memory than the budget has left."""

    code = "memory_budget_exceeded"


class Exists(Validation):
    """The version is stored already, and versions never change."""


class OutOfTime(CarouselError):
    """A train job's time was up before it had anything to show."""

    code = "out_of_time"


class BadCheckpoint(CarouselError):
    """The file is not a checkpoint that can be served, and the sentence says why."""

    code = "bad_checkpoint"


class GenerationFailed(CarouselError):
    """A generation that had begun could not go on."""

    code = "generation"


class SessionNotFound(CarouselError):
    """No session has this id, for this owner."""

    code = "session_not_found"


class JobNotFound(CarouselError):
    """No train job has this id, for this owner."""

    code = "job_not_found"


class CorpusNotFound(CarouselError):
    """No corpus has this id, for this owner."""

    code = "corpus_not_found"


class SessionLost(CarouselError):
    """The session was there, and the store has it no more."""

    code = "session_lost"


class SessionBusy(CarouselError):
    """A turn of the session is running; one writer at a time."""

    code = "session_busy"


class SessionExists(CarouselError):
    """The id that was asked for is taken."""

    code = "session_exists"


class StateModelMismatch(CarouselError):
    """The session's state belongs to another model than the one that would continue it."""

    code = "state_model_mismatch"


class PositionMismatch(CarouselError):
    """The session is not where the request expects it."""

    code = "position_mismatch"


class KeyReused(CarouselError):
    """An idempotency key came again with another request."""

    code = "key_reused"


class StoreUnavailable(CarouselError):
    """Redis is gone, hung, loading or read-only; the same request may do in a moment."""

    code = "store_unavailable"


class StoreFull(CarouselError):
    """Redis has no room for what was to be kept."""

    code = "store_full"


@contextlib.contextmanager
def about(field: str) -> Iterator[None]:
    """Note on every condition raised inside that it is about a field of the request."""
    try:
        yield
    except CarouselError as error:
        error.field = error.field or field
        raise
