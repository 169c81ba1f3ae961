"""The Python client of Carousel: `Client`, which blocks, and `AsyncClient`, for `async`."""

from importlib.metadata import version

from carousel_client._async.batches import AsyncBatchesAPI as AsyncBatchesAPI
from carousel_client._async.batches import AsyncFilesAPI as AsyncFilesAPI
from carousel_client._async.client import AsyncClient as AsyncClient
from carousel_client._async.models import AsyncModelsAPI as AsyncModelsAPI
from carousel_client._async.sessions import AsyncSessionsAPI as AsyncSessionsAPI
from carousel_client._async.stream import AsyncStream as AsyncStream
from carousel_client._async.train_jobs import AsyncCorporaAPI as AsyncCorporaAPI
from carousel_client._async.train_jobs import AsyncTrainJobsAPI as AsyncTrainJobsAPI
from carousel_client._sync.batches import BatchesAPI as BatchesAPI
from carousel_client._sync.batches import FilesAPI as FilesAPI
from carousel_client._sync.client import Client as Client
from carousel_client._sync.models import ModelsAPI as ModelsAPI
from carousel_client._sync.sessions import SessionsAPI as SessionsAPI
from carousel_client._sync.stream import Stream as Stream
from carousel_client._sync.train_jobs import CorporaAPI as CorporaAPI
from carousel_client._sync.train_jobs import TrainJobsAPI as TrainJobsAPI
from carousel_client.errors import BadRequest as BadRequest
from carousel_client.errors import CarouselClientError as CarouselClientError
from carousel_client.errors import Conflict as Conflict
from carousel_client.errors import GenerationFailed as GenerationFailed
from carousel_client.errors import InsufficientStorage as InsufficientStorage
from carousel_client.errors import Invalid as Invalid
from carousel_client.errors import NotAllowed as NotAllowed
from carousel_client.errors import NotFound as NotFound
from carousel_client.errors import Overloaded as Overloaded
from carousel_client.errors import PositionMismatch as PositionMismatch
from carousel_client.errors import RateLimited as RateLimited
from carousel_client.errors import SessionLost as SessionLost
from carousel_client.errors import StatusError as StatusError
from carousel_client.errors import StreamBroken as StreamBroken
from carousel_client.errors import Unavailable as Unavailable
from carousel_client.errors import UnexpectedResponse as UnexpectedResponse
from carousel_client.errors import Unreachable as Unreachable
from carousel_client.inspection import InspectedLayer as InspectedLayer
from carousel_client.inspection import InspectedToken as InspectedToken
from carousel_client.inspection import Inspection as Inspection
from carousel_client.inspection import InspectionStatistics as InspectionStatistics
from carousel_client.parameters import GenerateParameters as GenerateParameters
from carousel_client.parameters import Grammar as Grammar
from carousel_client.parameters import ImportOptions as ImportOptions
from carousel_client.parameters import InspectOptions as InspectOptions
from carousel_client.parameters import SteeredCell as SteeredCell
from carousel_client.parameters import TrainJobOptions as TrainJobOptions
from carousel_client.responses import Batch as Batch
from carousel_client.responses import BatchPage as BatchPage
from carousel_client.responses import Corpus as Corpus
from carousel_client.responses import Details as Details
from carousel_client.responses import FilePage as FilePage
from carousel_client.responses import GenerationResult as GenerationResult
from carousel_client.responses import Model as Model
from carousel_client.responses import ModelList as ModelList
from carousel_client.responses import Score as Score
from carousel_client.responses import ScoredToken as ScoredToken
from carousel_client.responses import ServerInfo as ServerInfo
from carousel_client.responses import SessionPage as SessionPage
from carousel_client.responses import SessionPosition as SessionPosition
from carousel_client.responses import SessionState as SessionState
from carousel_client.responses import StoredFile as StoredFile
from carousel_client.responses import TextToken as TextToken
from carousel_client.responses import Token as Token
from carousel_client.responses import TrainJob as TrainJob
from carousel_client.responses import TrainJobEvent as TrainJobEvent

__version__ = version("carousel-client")
