"""The Python client of Carousel: `Client`, which blocks, and `AsyncClient`, for `async`."""

from importlib.metadata import version

from carousel_client._async.client import AsyncClient
from carousel_client._async.models import AsyncModelsAPI
from carousel_client._async.sessions import AsyncSessionsAPI
from carousel_client._async.stream import AsyncStream
from carousel_client._async.train_jobs import AsyncCorporaAPI, AsyncTrainJobsAPI
from carousel_client._sync.client import Client
from carousel_client._sync.models import ModelsAPI
from carousel_client._sync.sessions import SessionsAPI
from carousel_client._sync.stream import Stream
from carousel_client._sync.train_jobs import CorporaAPI, TrainJobsAPI
from carousel_client.errors import (
    BadRequest,
    CarouselClientError,
    Conflict,
    GenerationFailed,
    InsufficientStorage,
    Invalid,
    NotAllowed,
    NotFound,
    Overloaded,
    PositionMismatch,
    SessionLost,
    StatusError,
    StreamBroken,
    Unavailable,
    UnexpectedResponse,
    Unreachable,
)
from carousel_client.parameters import (
    GenerateParameters,
    Grammar,
    ImportOptions,
    TrainJobOptions,
)
from carousel_client.responses import (
    Details,
    GenerationResult,
    Model,
    ModelList,
    Score,
    ScoredToken,
    ServerInfo,
    SessionPosition,
    SessionState,
    TextToken,
    Token,
)
from carousel_client.train_job_responses import Corpus, TrainJob, TrainJobEvent

__version__ = version("carousel-client")

__all__ = [
    "AsyncClient",
    "AsyncCorporaAPI",
    "AsyncModelsAPI",
    "AsyncSessionsAPI",
    "AsyncStream",
    "AsyncTrainJobsAPI",
    "BadRequest",
    "CarouselClientError",
    "Client",
    "Conflict",
    "CorporaAPI",
    "Corpus",
    "Details",
    "GenerateParameters",
    "GenerationFailed",
    "GenerationResult",
    "Grammar",
    "ImportOptions",
    "InsufficientStorage",
    "Invalid",
    "Model",
    "ModelList",
    "ModelsAPI",
    "NotAllowed",
    "NotFound",
    "Overloaded",
    "PositionMismatch",
    "Score",
    "ScoredToken",
    "ServerInfo",
    "SessionLost",
    "SessionPosition",
    "SessionState",
    "SessionsAPI",
    "StatusError",
    "Stream",
    "StreamBroken",
    "TextToken",
    "Token",
    "TrainJob",
    "TrainJobEvent",
    "TrainJobOptions",
    "TrainJobsAPI",
    "Unavailable",
    "UnexpectedResponse",
    "Unreachable",
    "__version__",
]
