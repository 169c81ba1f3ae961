"""The routes of files: upload, list, look, read and delete, as OpenAI has them."""

import asyncio
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel
from starlette.datastructures import FormData, UploadFile

from service.api.caller import caller_of
from service.api.http_request import BINARY, disk_full_as_too_large, raw_content
from service.api.sse import Responses
from service.api.state import AppState, get_state
from service.batch.file_store import StoredFile
from service.errors import TooLarge, Validation

PURPOSES = ("batch", "fine-tune")
MAX_FILE_NAME_CHARACTERS = 255
_LEAST_EXPIRY_S, _MOST_EXPIRY_S = 3_600, 2_592_000
_COPY_BYTES = 1024**2
_FIELDS = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": list(PURPOSES)},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer"},
    },
}
_UPLOAD: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}
}

Limit = Annotated[int, Query(ge=1, le=10_000)]
After = Annotated[str | None, Query(max_length=80)]

router = APIRouter(prefix="/v1/files", tags=["files"])


class FileReply(BaseModel):
    """The facts of a file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FilesReply(BaseModel):
    """A page of an owner's files."""

    object: Literal["list"] = "list"
    data: list[FileReply]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    """That a file is deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


_CONTENT: Responses = {200: {"content": raw_content(BINARY)}}


@router.post("", openapi_extra=_UPLOAD)
async def upload_file(request: Request) -> FileReply:
    """Store a file: for a batch one request in JSON a line, or examples to fine-tune with."""
    state = get_state(request)
    files, owner = state.batches.files, state.owner_of(request)
    incoming = await asyncio.to_thread(files.incoming)
    try:
        with disk_full_as_too_large("the file"):
            async with request.form(max_files=1, max_fields=8) as form:
                part, purpose, expires_in_s = _parts(form)
                await asyncio.to_thread(_save, part, incoming)
                name = _name_of(part)
            await asyncio.to_thread(_check_stored_bytes, request, state, incoming)
            card = await asyncio.to_thread(
                files.put, owner, incoming, name, purpose, expires_in_s=expires_in_s
            )
    finally:
        await asyncio.to_thread(incoming.unlink, missing_ok=True)
    return reply_of(card)


@router.get("")
def list_files(
    request: Request,
    purpose: Annotated[str | None, Query(max_length=80)] = None,
    limit: Limit = 10_000,
    after: After = None,
    order: Literal["asc", "desc"] = "desc",
) -> FilesReply:
    """List the files, the newest first."""
    state = get_state(request)
    cards = state.batches.files.cards(state.owner_of(request))
    cards = [card for card in cards if purpose in {None, card.purpose}]
    if order == "asc":
        cards.reverse()
    ids = [card.id for card in cards]
    first = ids.index(after) + 1 if after in ids else 0
    page = cards[first : first + limit]
    return FilesReply(
        data=[reply_of(card) for card in page],
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=first + limit < len(cards),
    )


@router.get("/{file_id}")
def look_at_file(request: Request, file_id: str) -> FileReply:
    """Return the facts of a file."""
    state = get_state(request)
    return reply_of(state.batches.files.card(state.owner_of(request), file_id))


@router.get("/{file_id}/content", response_class=Response, responses=_CONTENT)
def read_file(request: Request, file_id: str) -> Response:
    """Return what is in a file."""
    state = get_state(request)
    path = state.batches.files.content(state.owner_of(request), file_id)
    return FileResponse(path, media_type=BINARY)


@router.delete("/{file_id}")
def delete_file(request: Request, file_id: str) -> DeletedFile:
    """Delete a file. A batch that reads it goes on."""
    state = get_state(request)
    state.batches.files.delete(state.owner_of(request), file_id)
    return DeletedFile(id=file_id)


def reply_of(card: StoredFile) -> FileReply:
    """Return what the routes say of a file."""
    return FileReply.model_validate(card, from_attributes=True)


def expiry_s(anchor: object, seconds: object) -> int | None:
    """Return after how many seconds a file shall be deleted. Raises Validation."""
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise Validation("`expires_after.anchor` is created_at", "expires_after")
    text = str(seconds)
    is_number = text.isascii() and text.isdigit() and len(text) < 10
    if not is_number or not _LEAST_EXPIRY_S <= int(text) <= _MOST_EXPIRY_S:
        raise Validation(
            f"`expires_after.seconds` is {text[:80]}; it is {_LEAST_EXPIRY_S} to {_MOST_EXPIRY_S}",
            "expires_after",
        )
    return int(text)


def stored_bytes_of(state: AppState, owner: str) -> int:
    """Return the size of an owner's corpora and files."""
    corpora = sum(card.bytes for card in state.training.corpora.cards(owner))
    return corpora + state.batches.files.stored_bytes(owner)


def _parts(form: FormData) -> tuple[UploadFile, str, int | None]:
    """Return the file of a form, its purpose and its expiry. Raises Validation."""
    part, purpose = form.get("file"), form.get("purpose")
    if not isinstance(part, UploadFile):
        raise Validation("`file` is the part of the form that is a file", "file")
    unknown = sorted(set(form) - _FIELDS - {"file"})
    if unknown:
        raise Validation(f"`{unknown[0][:80]}` is not a known field", unknown[0][:80])
    if purpose not in PURPOSES:
        raise Validation(f"`purpose` is {' or '.join(PURPOSES)}", "purpose")
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    return part, str(purpose), expiry_s(anchor, seconds)


def _name_of(part: UploadFile) -> str:
    name = (part.filename or "").replace("\\", "/").rpartition("/")[2]
    return name[:MAX_FILE_NAME_CHARACTERS].encode("utf-8", "replace").decode() or "upload"


def _save(part: UploadFile, incoming: Path) -> None:
    with incoming.open("xb") as file:
        shutil.copyfileobj(part.file, file, _COPY_BYTES)


def _check_stored_bytes(request: Request, state: AppState, incoming: Path) -> None:
    """Check whether a file may be stored beside the owner's things. Raises TooLarge."""
    limit = state.metering.limits_of(caller_of(request.scope)).stored_bytes
    if limit is None:
        return
    size_bytes, stored_bytes = (
        incoming.stat().st_size,
        stored_bytes_of(state, state.owner_of(request)),
    )
    if stored_bytes + size_bytes > limit:
        raise TooLarge(
            f"the file has {size_bytes} bytes, and {stored_bytes} are stored: the limit "
            f"stored_bytes of this key is {limit}; delete a file or a corpus"
        )
