"""Health and metadata of the Open Inference Protocol (V2), by which KServe and its tools see us.

There is no `infer`: its typed tensors are of no use for text. Generate by the other routes.
"""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from service import __version__
from service.api.draining import DrainPhase
from service.api.health import ready as health_ready
from service.api.state import AppState, get_state
from service.errors import Draining, Forbidden
from service.models.spec import ModelRef

router = APIRouter(prefix="/v2", tags=["oip"])


class LiveReply(BaseModel):
    """Whether the server runs."""

    live: Literal[True] = True


class ReadyReply(BaseModel):
    """Whether the server accepts generate requests."""

    ready: Literal[True] = True


class ServerReply(BaseModel):
    """The server's metadata."""

    name: Literal["carousel"] = "carousel"
    version: str = __version__
    extensions: list[str] = []


class ModelMetadataReply(BaseModel):
    """A model's metadata; there are no tensors, because there is no `infer`."""

    name: str
    versions: list[str]
    platform: Literal["carousel"] = "carousel"
    inputs: list[str] = []
    outputs: list[str] = []


class ModelReadyReply(BaseModel):
    """Whether a model is loaded."""

    name: str
    ready: Literal[True] = True


@router.get("/health/live")
async def live() -> LiveReply:
    """Return 200 while the event loop runs."""
    return LiveReply()


@router.get("/health/ready", responses={200: {"model": ReadyReply}}, response_class=Response)
async def ready(request: Request) -> Response:
    """Return 200 if a generate request would be accepted, else 503."""
    reply = await health_ready(request)
    if reply.status_code != 200:
        return reply
    return Response(ReadyReply().model_dump_json(), media_type="application/json")


@router.get("")
async def server() -> ServerReply:
    """Return the server's name and version."""
    return ServerReply()


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{version}")
async def model_metadata(
    request: Request, name: str, version: str | None = None
) -> ModelMetadataReply:
    """Return the stored versions of a model; with a version this one alone."""
    state = get_state(request)
    chosen = _resolve(state, name, version)
    refs = [chosen]
    if version is None:
        refs = [info.ref for info in state.registry.listings() if info.ref.name == chosen.name]
    versions = [str(ref.version) for ref in refs if _may_use(state, ref)]
    return ModelMetadataReply(name=chosen.name, versions=versions)


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{version}/ready")
async def model_ready(request: Request, name: str, version: str | None = None) -> ModelReadyReply:
    """Return 200 if the model is loaded; 409 or 503 with the reason if it is not."""
    state = get_state(request)
    if state.drain.phase is not DrainPhase.SERVING:
        raise Draining("the server is stopping and accepts no new requests; try another one")
    chosen = _resolve(state, name, version)
    state.registry.get(str(chosen))
    return ModelReadyReply(name=chosen.name)


def _resolve(state: AppState, name: str, version: str | None) -> ModelRef:
    """Return the stored version that is meant. Raises ModelNotFound, Validation."""
    return state.resolve(name if version is None else f"{name}@{version}")


def _may_use(state: AppState, ref: ModelRef) -> bool:
    """Whether the request's key may use a version."""
    try:
        state.resolve(str(ref))
    except Forbidden:
        return False
    return True
