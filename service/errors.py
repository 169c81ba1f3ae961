"""All errors that Carousel reports.

    CarouselError
    ├── invalid request      BadRequest  Validation  Exists  UnknownCharacter  TooLarge  KeyReused
    ├── not found            ModelNotFound  SessionNotFound  SessionLost  JobNotFound
    │                        CorpusNotFound
    ├── try again later      ModelNotReady  ModelUnloaded  ModelInUse  Overloaded  Draining
    │                        StoreUnavailable
    ├── conflict             SessionBusy  SessionExists  StateModelMismatch  PositionMismatch
    ├── out of space         MemoryBudgetExceeded  StoreFull
    ├── imported file        BadCheckpoint
    ├── generation           GenerationFailed
    └── training             OutOfTime

An error has a code and a message; `api/errors.py` has the table of HTTP statuses. The message
states the value received, the limit, and what to do.
"""

import contextlib
from collections.abc import Iterator
from typing import ClassVar


class CarouselError(Exception):
    """An error with a `code` for programs and a message for people.

    `field` is the field of the request that caused it, if it is known (see `about`).
    """

    code: ClassVar[str]

    def __init__(self, message: str = "", field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class BadRequest(CarouselError):
    """The request cannot be parsed."""

    code = "bad_request"


class Validation(CarouselError):
    """A value of the request is outside its limits."""

    code = "validation"


class UnknownCharacter(CarouselError):
    """The text has a character without a token in the model's vocabulary."""

    code = "unknown_character"


class TooLarge(CarouselError):
    """A body or a file is larger than its limit."""

    code = "too_large"


class ModelNotFound(CarouselError):
    """No model, version or alias has this name."""

    code = "model_not_found"


class ModelNotReady(CarouselError):
    """The model is being loaded; the same request succeeds later."""

    code = "model_not_ready"


class ModelUnloaded(CarouselError):
    """The model is stored but not loaded."""

    code = "model_unloaded"


class ModelInUse(CarouselError):
    """The model is loaded, or an alias refers to it."""

    code = "model_in_use"


class Overloaded(CarouselError):
    """The queue is full."""

    code = "overloaded"


class Draining(CarouselError):
    """The server is stopping and accepts no new requests."""

    code = "draining"


class MemoryBudgetExceeded(CarouselError):
    """Loading the model would exceed the memory budget."""

    code = "memory_budget_exceeded"


class Exists(Validation):
    """The version exists, and versions never change."""


class OutOfTime(CarouselError):
    """A train job reached its time limit before its first checkpoint."""

    code = "out_of_time"


class BadCheckpoint(CarouselError):
    """The file is not a checkpoint that can be served; the message has the reason."""

    code = "bad_checkpoint"


class GenerationFailed(CarouselError):
    """A generation failed after it had started."""

    code = "generation"


class SessionNotFound(CarouselError):
    """The owner has no session with this id."""

    code = "session_not_found"


class JobNotFound(CarouselError):
    """The owner has no train job with this id."""

    code = "job_not_found"


class CorpusNotFound(CarouselError):
    """The owner has no corpus with this id."""

    code = "corpus_not_found"


class SessionLost(CarouselError):
    """The session existed, but the store has lost it."""

    code = "session_lost"


class SessionBusy(CarouselError):
    """A turn of the session is running; a session has one turn at a time."""

    code = "session_busy"


class SessionExists(CarouselError):
    """A session with the requested id exists."""

    code = "session_exists"


class StateModelMismatch(CarouselError):
    """The session's state belongs to another model than the request's."""

    code = "state_model_mismatch"


class PositionMismatch(CarouselError):
    """The session's position is not the expected one."""

    code = "position_mismatch"


class KeyReused(CarouselError):
    """An idempotency key was used for another request."""

    code = "key_reused"


class StoreUnavailable(CarouselError):
    """Redis is down, unresponsive, loading or read-only; the same request may succeed later."""

    code = "store_unavailable"


class StoreFull(CarouselError):
    """Redis has no memory for the write."""

    code = "store_full"


@contextlib.contextmanager
def about(field: str) -> Iterator[None]:
    """Set the field of the request on every CarouselError raised inside."""
    try:
        yield
    except CarouselError as error:
        error.field = error.field or field
        raise
