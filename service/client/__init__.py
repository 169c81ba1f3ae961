"""A client of Carousel, for programs: one that waits, and one for `async`.

Imports httpx2 and nothing else of this package's neighbours: no model, no array, no store.
"""

from service.client.async_client import AsyncClient
from service.client.client import Client
from service.client.errors import (
    BadRequest,
    CarouselError,
    Conflict,
    GenerationFailed,
    Invalid,
    NoRoom,
    NotAllowed,
    NotFound,
    Overloaded,
    PositionMismatch,
    Refused,
    SessionLost,
    StreamBroken,
    Unavailable,
    UnknownReply,
    Unreachable,
)
from service.client.job_replies import Corpus, Job, JobEvent
from service.client.parameters import Grammar, Parameters
from service.client.replies import (
    Details,
    Generation,
    Info,
    Model,
    Models,
    Score,
    ScoredToken,
    SessionPosition,
    SessionState,
    TextToken,
    Token,
)
from service.client.stream import AsyncStream, Stream

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "BadRequest",
    "CarouselError",
    "Client",
    "Conflict",
    "Corpus",
    "Details",
    "Generation",
    "GenerationFailed",
    "Grammar",
    "Info",
    "Invalid",
    "Job",
    "JobEvent",
    "Model",
    "Models",
    "NoRoom",
    "NotAllowed",
    "NotFound",
    "Overloaded",
    "Parameters",
    "PositionMismatch",
    "Refused",
    "Score",
    "ScoredToken",
    "SessionLost",
    "SessionPosition",
    "SessionState",
    "Stream",
    "StreamBroken",
    "TextToken",
    "Token",
    "Unavailable",
    "UnknownReply",
    "Unreachable",
]
