"""All errors that Carousel reports.

An error has a code and a message; `api/errors.py` has the table of HTTP statuses. The message
states the value received, the limit, and what to do.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class CarouselError(Exception):
    """An error with a code for programs, a message for people, and the request's field if known."""

    code: ClassVar[str]

    def __init_subclass__(cls, code: str | None = None) -> None:
        """Set the code of a class; without one it is its base's."""
        cls.code = code or cls.code

    def __init__(self, message: str = "", field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class BadRequest(CarouselError, code="bad_request"):
    """The request cannot be parsed."""


class Validation(CarouselError, code="validation"):
    """A value of the request is outside its limits."""


class UnknownCharacter(CarouselError, code="unknown_character"):
    """The text has a character without a token in the model's vocabulary."""


class TooLarge(CarouselError, code="too_large"):
    """A body or a file is larger than its limit."""


class Unauthorized(CarouselError, code="unauthorized"):
    """The key is missing or not valid. `reason` says which, for the log and not for the sender."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Forbidden(CarouselError, code="forbidden"):
    """The key lacks the scope that the route needs, or may not use the model."""


class CrossOrigin(CarouselError, code="cross_origin"):
    """A browser sends the request for a page of another site."""


class InvalidHost(CarouselError, code="invalid_host"):
    """The Host header names none of this server's names."""


class ModelNotFound(CarouselError, code="model_not_found"):
    """No model, version or alias has this name."""


class ModelNotReady(CarouselError, code="model_not_ready"):
    """The model is being loaded, or could not be loaded."""


class ModelUnloaded(CarouselError, code="model_unloaded"):
    """The model is stored but not loaded."""


class ModelInUse(CarouselError, code="model_in_use"):
    """The model is loaded, or an alias refers to it."""


class Overloaded(CarouselError, code="overloaded"):
    """The queue or the beam searches are full."""


class RateLimited(CarouselError, code="rate_limited"):
    """A limit of the key is reached; after `retry_after_s` the same request may succeed.

    `headers` say what is left of each limit.
    """

    def __init__(
        self, message: str, retry_after_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        super().__init__(message)
        self.retry_after_s, self.headers = retry_after_s, headers


class Draining(CarouselError, code="draining"):
    """The server is stopping and accepts no new requests."""


class MemoryBudgetExceeded(CarouselError, code="memory_budget_exceeded"):
    """Loading the model would exceed the memory budget."""


class Exists(Validation):
    """The version exists, and versions never change."""


class OutOfTime(CarouselError, code="out_of_time"):
    """A train job reached its time limit before its first checkpoint."""


class BadCheckpoint(CarouselError, code="bad_checkpoint"):
    """The file is not a checkpoint that can be served; the message has the reason."""


class GenerationFailed(CarouselError, code="generation"):
    """A generation failed after it had started."""


class TurnCancelled(GenerationFailed):
    """A request to cancel a session's turn has ended it."""


class SessionNotFound(CarouselError, code="session_not_found"):
    """The owner has no session with this id."""


class JobNotFound(CarouselError, code="job_not_found"):
    """The owner has no train job with this id."""


class CorpusNotFound(CarouselError, code="corpus_not_found"):
    """The owner has no corpus with this id."""


class StoredFileNotFound(CarouselError, code="file_not_found"):
    """The owner has no file with this id."""


class BatchNotFound(CarouselError, code="batch_not_found"):
    """The owner has no batch with this id."""


class KeyNotFound(CarouselError, code="key_not_found"):
    """No key has this id."""


class CorpusInUse(CarouselError, code="corpus_in_use"):
    """A train job that is not over reads the corpus."""


class JobNotOver(CarouselError, code="job_not_over"):
    """The train job is queued or running; one that is over can be deleted."""


class SessionLost(CarouselError, code="session_lost"):
    """The session existed, but the store has lost it."""


class SessionDamaged(SessionLost):
    """The session's log is not what was written: a checksum differs, or a token is none."""


class SessionBusy(CarouselError, code="session_busy"):
    """A turn of the session is running; a session has one turn at a time."""


class SessionExists(CarouselError, code="session_exists"):
    """A session with the requested id exists."""


class StateModelMismatch(CarouselError, code="state_model_mismatch"):
    """The session's state belongs to another model than the request's."""


class PositionMismatch(CarouselError, code="position_mismatch"):
    """The session's position is not the expected one."""


class SessionMoved(PositionMismatch):
    """The session was changed between the reading of its record and the begin of a turn."""


class KeyReused(CarouselError, code="key_reused"):
    """An idempotency key was used for another request."""


class StoreUnavailable(CarouselError, code="store_unavailable"):
    """Redis is down, unresponsive, loading or read-only; the same request may succeed later."""


class StoreFull(CarouselError, code="store_full"):
    """Redis has no memory for the write."""


@contextlib.contextmanager
def about(field: str) -> Iterator[None]:
    """Set the field of the request on every CarouselError raised inside."""
    try:
        yield
    except CarouselError as error:
        error.field = error.field or field
        raise


def reason_of(error: BaseException) -> str:
    """Return an error of the system or a library as a reason, with a file's name and no path."""
    if isinstance(error, OSError) and error.strerror:
        name = Path(os.fsdecode(error.filename)).name if error.filename else ""
        return f"{name}: {error.strerror}" if name else error.strerror
    return str(error)
