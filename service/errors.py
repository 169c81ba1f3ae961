"""Every condition that Carousel reports, on one page.

    CarouselError
    ├── asked wrongly        BadRequest  Validation  UnknownCharacter  TooLarge
    ├── not there            ModelNotFound
    ├── not now              ModelNotReady  ModelUnloaded  ModelInUse  Overloaded  Draining
    ├── does not fit         MemoryBudgetExceeded
    ├── a foreign file       BadCheckpoint
    └── while generating     Generation

A condition knows its code and its sentence, not HTTP: `api/problems.py` holds the one table
from conditions to statuses. The sentence says what was received, the limit, and what to do.
"""

from typing import ClassVar


class CarouselError(Exception):
    """A named condition: `code` for programs, the message for people."""

    code: ClassVar[str]


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


class BadCheckpoint(CarouselError):
    """The file is not a checkpoint that can be served, and the sentence says why."""

    code = "bad_checkpoint"


class Generation(CarouselError):
    """A generation that had begun could not go on."""

    code = "generation"
