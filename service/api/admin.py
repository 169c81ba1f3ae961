"""The admin routes of models: list, import, load, unload and delete; and those of the drain."""

import asyncio
import json
import shutil
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import FormData, UploadFile

from service.api.draining import DrainPhase
from service.api.ended_request import MADE
from service.api.errors import describe
from service.api.fields import Body, Name
from service.api.fleet import ChangeReport, ChangeWait, Waiting
from service.api.http_request import disk_full_as_too_large
from service.api.memory_usage import memory_usage
from service.api.model_description import SpecialTokensByRole, described_if_stored
from service.api.sampling_fields import INPUT_ERROR
from service.api.state import AppState, get_state
from service.errors import Validation
from service.fleet.outcome import FleetOutcome
from service.models.bundle import Precision
from service.models.importing.importer import Importer
from service.models.importing.request import ImportRequest
from service.models.loaded_model import ModelStatus
from service.models.retention import FOREVER, Retention
from service.models.spec import ModelRef, ModelSpec, check_name
from service.scratch_folder import scratch_folder, store_errors

UPLOADING = ".upload-"  # begins the name of an upload's folder in the import folder
MAX_FILE_NAME_BYTES = 200
MAX_DRAIN_S = 86_400
MAX_KEEP_ALIVE_S = 365 * 86_400
_COPY_BYTES = 1024 * 1024
_IMPORT_FOLDER = "the import folder is the server's CAROUSEL_IMPORT_DIR, by default imports/"

_FILE = {"type": "string", "format": "binary"}
_UPLOAD_FORM = {
    "type": "object",
    "properties": {
        "source": {"type": "array", "items": _FILE},
        "name": {"type": "string"},
        "version": {"type": "string"},
        "vocabulary": _FILE,
        "vocabulary_text": _FILE,
        "config": _FILE,
        "precision": {"enum": ["auto", "float32", "int8"]},
        "assume": {"type": "string", "description": "a JSON object"},
        "alias": {"type": "string"},
    },
    "required": ["source", "name"],
}
_UPLOAD_BODY = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _UPLOAD_FORM}}}
}

router = APIRouter(prefix="/admin", tags=["admin"])


class ImportBody(Body):
    """The body of POST /admin/models. Paths are relative to the import folder."""

    source: Annotated[str, Field(min_length=1, max_length=1_024)]
    name: Name
    version: int | None = Field(None, ge=1, lt=10**9)
    vocabulary: Annotated[str, Field(max_length=1_024)] | None = None
    vocabulary_text: Annotated[str, Field(max_length=1_024)] | None = None
    config: Annotated[str, Field(max_length=1_024)] | None = None
    precision: Literal["auto", "float32", "int8"] = "auto"
    assume: dict[str, str] = Field(default_factory=dict, max_length=32)
    alias: Name | None = None


class LoadBody(Body):
    """The body of POST /admin/models/{ref}/load."""

    precision: Literal["float32", "int8", "float16"] | None = None
    pin: bool | None = None
    keep_alive_s: float | None = Field(None, ge=-1, le=MAX_KEEP_ALIVE_S)
    evict: bool = False

    def retention(self, before: Retention) -> Retention | None:
        """Return the retention that the body asks for; None if it names none of it.

        Raises Validation.
        """
        if self.keep_alive_s is not None and FOREVER < self.keep_alive_s < 0:
            raise Validation(
                f"`keep_alive_s` is {self.keep_alive_s:g}; give seconds from 0 on, or -1",
                "keep_alive_s",
            )
        given = self.model_dump(include={"pin", "keep_alive_s"}, exclude_none=True)
        return replace(before, **given) if given else None


class UnloadBody(Body):
    """The body of POST /admin/models/{ref}/unload."""

    drain_s: float | None = Field(None, ge=0, le=MAX_DRAIN_S)


class StoredModel(BaseModel):
    """A stored version. Members that a damaged one lacks are null."""

    name: str
    version: int
    status: ModelStatus
    digest: str | None
    precision: Literal["float32", "int8", "float16"] | None  # in memory
    bytes: int
    architecture: str | None
    vocabulary_size: int | None
    tokenizer: str | None  # its kind
    special_tokens: SpecialTokensByRole | None  # null unless it is loaded
    state: str | dict[str, Any] | None  # "carried", or the window that each prediction reads
    sessions: int  # whose turns run on it in this process
    assumptions: list[str]
    precision_reason: str | None
    parity: dict[str, Any] | None
    pin: bool
    keep_alive_s: float  # -1: until its memory is needed
    requests: int  # that use it in this process, or wait for it
    error: str | None = None


class ChangedModel(StoredModel):
    """A version that was changed, as it is in this process, and how far every process is."""

    fleet: ChangeReport


class ModelMemory(BaseModel):
    """The memory of this process's models in bytes. Those of the parts are upper bounds."""

    budget: int
    reserved: int  # by models that are loaded, being loaded or draining
    weights: int
    programs: int
    states: int  # of the batches
    texts: int
    prefix_cache: int
    constraint_tables: int


class StoredModels(BaseModel):
    """All stored versions and all aliases."""

    models: list[StoredModel]
    aliases: dict[str, str]
    memory: ModelMemory


class DrainReport(BaseModel):
    """The state of a drain."""

    phase: DrainPhase
    running: int  # requests, and generations that go on without one


_CHANGED: dict[int | str, dict[str, Any]] = {
    200: {"model": ChangedModel},
    202: {"model": ChangedModel},
}
_IMPORTED: dict[int | str, dict[str, Any]] = {
    201: {"model": ChangedModel},
    202: {"model": ChangedModel},
}


@router.get("/models", responses={200: {"model": StoredModels}})
async def list_models(request: Request) -> dict[str, Any]:
    """List every stored version, and the aliases."""
    state = get_state(request)
    registry = state.registry
    registry.refresh_if_readable()
    return {
        "models": [_row(state, info.ref) for info in registry.listings()],
        "aliases": {alias: str(ref) for alias, ref in sorted(registry.aliases.items())},
        "memory": {
            "budget": registry.budget.limit_bytes,
            "reserved": registry.budget.used_bytes,
            **asdict(memory_usage(state)),
        },
    }


@router.post("/models", status_code=201, responses=_IMPORTED)
async def import_model(
    request: Request, response: Response, body: ImportBody, waiting: Waiting
) -> dict[str, Any]:
    """Import a checkpoint from the import folder, and load it in every process."""
    state = get_state(request)
    ref, outcome = await _import(request, body, state.import_dir, _IMPORT_FOLDER, waiting)
    return _row(state, ref) | {"fleet": waiting.report(response, outcome)}


@router.post(
    "/models/upload",
    status_code=201,
    responses=_IMPORTED,
    openapi_extra=_UPLOAD_BODY,
)
async def upload_model(request: Request, response: Response, waiting: Waiting) -> dict[str, Any]:
    """Import a checkpoint whose files are parts of the form, and load it in every process.

    The fields are those of POST /admin/models; `assume` is a JSON object. `source`, `vocabulary`,
    `vocabulary_text` and `config` are files; several `source` parts are one checkpoint of
    several files.
    """
    state = get_state(request)
    n_files = state.limits.max_model_upload_files
    with (
        store_errors("the import folder"),
        disk_full_as_too_large("the upload"),
        ExitStack() as stack,
    ):
        uploading = scratch_folder(state.import_dir, UPLOADING)
        folder = await asyncio.to_thread(stack.enter_context, uploading)
        async with request.form(max_files=n_files, max_fields=n_files) as form:
            await asyncio.to_thread(_save, form, folder)
            body = _upload_body(form)
        where = "the upload's own files are meant"
        chosen, outcome = await _import(request, body, folder, where, waiting)
        return _row(state, chosen) | {"fleet": waiting.report(response, outcome)}


@router.post("/models/{ref}/load", responses=_CHANGED)
async def load_model(
    request: Request, response: Response, ref: str, waiting: Waiting, body: LoadBody | None = None
) -> dict[str, Any]:
    """Load a stored version; if it is loaded, the old one serves until the new one is ready.

    Every process of the store loads it. The status is 202 where one has not, for as long as the
    request waits, and `fleet` says which and why.

    With `pin` or `keep_alive_s` and without `precision` a loaded one only changes how long it
    stays in memory. With `evict` models that no request uses leave the memory for it.
    """
    state = get_state(request)
    registry = state.registry
    registry.refresh_if_readable()
    chosen = registry.resolve(ref)
    body = body or LoadBody()
    precision = None if body.precision is None else Precision(body.precision)
    retention = body.retention(registry.info(chosen).retention)
    outcome = await state.fleet.load(
        chosen, precision, retention, evict=body.evict, wait_s=waiting.limit_s
    )
    return _row(state, chosen) | {"fleet": waiting.report(response, outcome)}


@router.post("/models/{ref}/unload", responses=_CHANGED)
async def unload_model(
    request: Request, response: Response, ref: str, waiting: Waiting, body: UnloadBody | None = None
) -> dict[str, Any]:
    """Remove a model from every process; it is `draining` until its requests have ended.

    They have an hour, or `drain_s`; then they end with the error `draining`. The answer does not
    wait for them.
    """
    state = get_state(request)
    state.registry.refresh_if_readable()  # another process may have stored it
    chosen = state.registry.resolve(ref)
    drain_s = body.drain_s if body else None
    outcome = await state.fleet.unload(chosen, drain_s, wait_s=waiting.limit_s)
    return _row(state, chosen) | {"fleet": waiting.report(response, outcome)}


@router.post("/drain", status_code=202, responses={202: {"model": DrainReport}})
async def begin_drain(request: Request) -> dict[str, Any]:
    """Refuse new requests from now on, after the lame-duck time, and go on with those that run."""
    state = get_state(request)
    drain = state.drain
    drain.begin()
    state.drain_others()
    await asyncio.sleep(0)
    return {"phase": drain.phase, "running": drain.running}


@router.get("/drain", responses={200: {"model": DrainReport}})
async def get_drain(request: Request) -> dict[str, Any]:
    """Return whether new requests are accepted, and how many run."""
    drain = get_state(request).drain
    return {"phase": drain.phase, "running": drain.running}


@router.delete("/models/{ref}", status_code=204)
async def delete_model(request: Request, ref: str) -> Response:
    """Delete a stored version that is neither loaded nor aliased."""
    await get_state(request).fleet.delete(ModelRef.parse(ref))
    return Response(status_code=204)


async def _import(
    request: Request, body: ImportBody, folder: Path, where: str, waiting: ChangeWait
) -> tuple[ModelRef, FleetOutcome]:
    """Import and load; `where` ends the refusal of a path. Only a good request waits for others."""
    state = get_state(request)
    setattr(request.state, MADE, body.name)  # the audit trail has the name of a refused one, too
    check_name(body.name)
    state.registry.refresh_if_readable()
    if body.name in state.registry.aliases:
        raise Validation(f"{body.name!r} is an alias; take another name for the model", "name")
    if body.alias is not None:
        state.registry.check_alias(body.alias)
        if body.alias == body.name:
            raise Validation("`alias` is the name of the model; leave it out", "alias")
    import_request = ImportRequest(
        source=Path(body.source),
        name=body.name,
        version=body.version,
        vocabulary=Path(body.vocabulary) if body.vocabulary else None,
        vocabulary_text=Path(body.vocabulary_text) if body.vocabulary_text else None,
        config=Path(body.config) if body.config else None,
        precision=body.precision,
        assume=body.assume,
    )
    importer = Importer(folder, state.store, children=state.children)
    try:
        await asyncio.to_thread(importer.check, import_request)
    except Validation as error:
        raise Validation(f"{error}; {where}" if error.field else str(error), error.field) from error
    async with state.importing:
        bundle = await asyncio.to_thread(importer.run, import_request)
    setattr(request.state, MADE, str(bundle.ref))
    state.registry.refresh_if_readable()
    outcome = await state.fleet.load(bundle.ref, wait_s=waiting.limit_s)
    if body.alias is not None:
        outcome = await state.fleet.set_alias(body.alias, bundle.ref, wait_s=waiting.limit_s)
    return bundle.ref, outcome


def _save(form: FormData, folder: Path) -> None:
    """Write the files of a form, under their own base names, into the folder of this upload."""
    for _, part in form.multi_items():
        if isinstance(part, UploadFile):
            try:
                with (folder / _file_name(part)).open("xb") as file:
                    shutil.copyfileobj(part.file, file, _COPY_BYTES)
            except FileExistsError as error:
                raise Validation(f"two of the files are named {_file_name(part)!r}") from error


def _file_name(part: UploadFile) -> str:
    """Return the base name that the client gave. Raises Validation if it is not allowed."""
    name = Path(part.filename or "").name
    is_plain = name.isprintable() and not name.startswith(".")
    if not name or not is_plain or len(name.encode()) > MAX_FILE_NAME_BYTES:
        raise Validation(f"{str(part.filename)[:80]!r} is not a name for an uploaded file")
    return name


def _upload_body(form: FormData) -> ImportBody:
    """Return the form as the body of the JSON route; a file is replaced by its name."""
    fields: dict[str, Any] = {}
    for name, part in form.multi_items():
        if isinstance(part, str):
            fields[name] = part
        else:
            fields[name] = "." if name == "source" and name in fields else _file_name(part)
    try:
        if "assume" in fields:
            fields["assume"] = json.loads(fields["assume"])
        return ImportBody.model_validate(fields, strict=False)
    except ValidationError as error:
        raise Validation(INPUT_ERROR + describe(error.errors())) from error
    except (ValueError, RecursionError) as error:
        raise Validation(f"{INPUT_ERROR}`assume` is not JSON") from error


def _row(state: AppState, ref: ModelRef) -> dict[str, Any]:
    """Return a version as a StoredModel."""
    info = state.registry.info(ref)
    manifest = info.manifest
    loaded = next((model for model in state.registry.loaded() if model.ref == info.ref), None)
    row: dict[str, Any] = {
        "name": info.ref.name,
        "version": info.ref.version,
        "status": info.status,
        "digest": manifest.digest if manifest else None,
        "precision": info.precision,
        "bytes": info.size_bytes,
        "architecture": ModelSpec.from_json(manifest.architecture).summary if manifest else None,
        **described_if_stored(manifest, loaded),
        "sessions": state.sessions.registry.n_running(manifest.digest) if manifest else 0,
        "assumptions": list(manifest.assumptions) if manifest else [],
        "precision_reason": manifest.precision_reason if manifest else None,
        "pin": info.retention.pin,
        "keep_alive_s": info.retention.keep_alive_s,
        "requests": info.leases,
        "parity": manifest.parity.model_dump(mode="json") if manifest else None,
    }
    return row | ({"error": info.error} if info.error else {})
