"""The admin routes: models come, go and change their names while the server runs."""

import asyncio
import errno
import json
import secrets
import shutil
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from service.api.bodies import AliasBody, ImportBody, LoadBody
from service.api.errors import describe
from service.api.state import AppState, get_state
from service.errors import TooLarge, Validation
from service.models.bundle import Precision
from service.models.importing.importer import Importer
from service.models.importing.request import ImportRequest
from service.models.registry import ModelInfo, ModelStatus
from service.models.spec import ModelRef, ModelSpec, check_name

MAX_UPLOAD_BYTES = 1024 * 1024 * 1024
MAX_UPLOAD_FILES = 32
MAX_FILE_NAME_BYTES = 200
_COPY_BYTES = 1024 * 1024

_FILE = {"type": "string", "format": "binary"}
_UPLOAD_FIELDS = {
    "source": {"type": "array", "items": _FILE},
    "name": {"type": "string"},
    "version": {"type": "string"},
    "vocabulary": _FILE,
    "vocabulary_text": _FILE,
    "precision": {"enum": ["auto", "float32", "int8"]},
    "assume": {"type": "string", "description": "a JSON object"},
    "alias": {"type": "string"},
}
_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": _UPLOAD_FIELDS,
                    "required": ["source", "name"],
                }
            }
        },
    }
}

router = APIRouter(prefix="/admin", tags=["admin"])


class StoredModel(BaseModel):
    """A stored version. What is not known of a damaged one is null."""

    name: str
    version: int
    status: ModelStatus
    digest: str | None
    precision: Literal["float32", "int8"] | None  # as it is loaded
    bytes: int
    architecture: str | None
    vocabulary_size: int | None
    sessions: int  # whose turns run on it here
    assumptions: list[str]
    precision_reason: str | None
    parity: dict[str, Any] | None
    error: str | None = None


class StoredModels(BaseModel):
    """Every stored version, and the aliases."""

    models: list[StoredModel]
    aliases: dict[str, str]


class Aliases(BaseModel):
    """Every alias and the version it stands for."""

    aliases: dict[str, str]


@router.get("/models", responses={200: {"model": StoredModels}})
async def list_models(request: Request) -> dict[str, Any]:
    """Every stored version, and the aliases."""
    serving = get_state(request)
    registry = serving.registry
    registry.refresh()
    return {
        "models": [_row(serving, listing) for listing in registry.listings()],
        "aliases": {alias: str(ref) for alias, ref in sorted(registry.aliases.items())},
    }


@router.post("/models", status_code=201, responses={201: {"model": StoredModel}})
async def import_model(request: Request, body: ImportBody) -> dict[str, Any]:
    """Import a checkpoint that lies under the import folder, and load it."""
    serving = get_state(request)
    return await _import(serving, body, serving.import_dir)


@router.post(
    "/models/upload",
    status_code=201,
    responses={201: {"model": StoredModel}},
    openapi_extra=_UPLOAD_BODY,
)
async def upload_model(request: Request) -> dict[str, Any]:
    """As POST /admin/models, with the files as parts of the form.

    The fields are those of the JSON body; `assume` is a JSON object. `source`, `vocabulary` and
    `vocabulary_text` are files; several parts called `source` are one checkpoint of many files.
    """
    serving = get_state(request)
    folder = serving.import_dir / f".upload-{secrets.token_hex(8)}"
    try:
        folder.mkdir(mode=0o700, parents=True)
        async with request.form(max_files=MAX_UPLOAD_FILES, max_fields=MAX_UPLOAD_FILES) as form:
            await asyncio.to_thread(_save, form, folder)
            body = _upload_body(form)
        return await _import(serving, body, folder)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise TooLarge("the server's disk has no room left for the upload") from error
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


@router.post("/models/{ref}/load", responses={200: {"model": StoredModel}})
async def load_model(request: Request, ref: str, body: LoadBody | None = None) -> dict[str, Any]:
    """Load a stored version; one that is loaded serves until the new one is ready."""
    serving = get_state(request)
    registry = serving.registry
    registry.refresh()
    chosen = registry.resolve(ref)
    precision = body.precision if body else None
    await registry.load(chosen, None if precision is None else Precision(precision))
    return _row(serving, registry.listing(chosen))


@router.post("/models/{ref}/unload", responses={200: {"model": StoredModel}})
async def unload_model(request: Request, ref: str) -> dict[str, Any]:
    """Take a model out of memory when what runs on it has ended."""
    serving = get_state(request)
    registry = serving.registry
    chosen = registry.resolve(ref)
    await registry.unload(chosen)
    return _row(serving, registry.listing(chosen))


@router.delete("/models/{ref}", status_code=204)
async def delete_model(request: Request, ref: str) -> Response:
    """Remove a stored version that is neither loaded nor aliased."""
    await get_state(request).registry.delete(ModelRef.parse(ref))
    return Response(status_code=204)


@router.put("/aliases/{alias}", responses={200: {"model": Aliases}})
async def set_alias(request: Request, alias: str, body: AliasBody) -> dict[str, Any]:
    """Let new requests for an alias go to a model."""
    registry = get_state(request).registry
    registry.set_alias(alias, registry.resolve(body.model))
    return {"aliases": {name: str(ref) for name, ref in sorted(registry.aliases.items())}}


async def _import(serving: AppState, body: ImportBody, folder: Path) -> dict[str, Any]:
    check_name(body.name)
    if body.alias is not None:
        check_name(body.alias)
    wanted = ImportRequest(
        source=Path(body.source),
        name=body.name,
        version=body.version,
        vocabulary=Path(body.vocabulary) if body.vocabulary else None,
        vocabulary_text=Path(body.vocabulary_text) if body.vocabulary_text else None,
        precision=body.precision,
        assume=body.assume,
    )
    importer = Importer(folder, serving.store)
    async with serving.importing:
        bundle = await asyncio.to_thread(importer.run, wanted)
    registry = serving.registry
    registry.refresh()
    await registry.load(bundle.ref)
    if body.alias is not None:
        registry.set_alias(body.alias, bundle.ref)
    return _row(serving, registry.listing(bundle.ref))


def _save(form: FormData, folder: Path) -> None:
    """Write a form's files under their own last names into a folder of this upload alone."""
    for _, part in form.multi_items():
        if isinstance(part, UploadFile):
            try:
                with (folder / _file_name(part)).open("xb") as file:
                    shutil.copyfileobj(part.file, file, _COPY_BYTES)
            except FileExistsError as error:
                raise Validation(f"two of the files are called {_file_name(part)!r}") from error


def _file_name(part: UploadFile) -> str:
    """The last part of the name that the client gave, if a file may be called so."""
    name = Path(part.filename or "").name
    is_plain = name.isprintable() and not name.startswith(".")
    if not name or not is_plain or len(name.encode()) > MAX_FILE_NAME_BYTES:
        raise Validation(f"{str(part.filename)[:80]!r} is not a name for an uploaded file")
    return name


def _upload_body(form: FormData) -> ImportBody:
    """The fields of the form as the JSON route's body; files stand for their names."""
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
        raise Validation(f"Input validation error: {describe(error.errors())}") from error
    except (ValueError, RecursionError) as error:
        raise Validation("Input validation error: `assume` is not JSON") from error


def _row(serving: AppState, listing: ModelInfo) -> dict[str, Any]:
    """One model as the contract shows it."""
    manifest = listing.manifest
    row: dict[str, Any] = {
        "name": listing.ref.name,
        "version": listing.ref.version,
        "status": listing.status,
        "digest": manifest.digest if manifest else None,
        "precision": listing.precision,
        "bytes": listing.size_bytes,
        "architecture": ModelSpec.from_json(manifest.architecture).summary if manifest else None,
        "vocabulary_size": manifest.architecture.get("vocabulary_size") if manifest else None,
        "sessions": serving.sessions.registry.n_running(manifest.digest) if manifest else 0,
        "assumptions": list(manifest.assumptions) if manifest else [],
        "precision_reason": manifest.precision_reason if manifest else None,
        "parity": manifest.parity.model_dump(mode="json") if manifest else None,
    }
    return row | ({"error": listing.error} if listing.error else {})
