"""The audit trail: who changed models, aliases, keys and jobs, from where, and the outcome."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from service.api.ended_request import EndedRequest
from service.api.state import get_state
from service.errors import CarouselError

ACTIONS: Mapping[str, str] = {
    "POST /admin/models": "model.import",
    "POST /admin/models/upload": "model.import",
    "POST /admin/models/{ref}/load": "model.load",
    "POST /admin/models/{ref}/unload": "model.unload",
    "DELETE /admin/models/{ref}": "model.delete",
    "PUT /admin/models/{ref}/chat-template": "model.chat_template",
    "DELETE /admin/models/{ref}/chat-template": "model.chat_template",
    "PUT /admin/aliases/{alias}": "alias.move",
    "DELETE /admin/aliases/{alias}": "alias.delete",
    "POST /admin/keys": "key.add",
    "POST /admin/keys/{key_id}/rotate": "key.rotate",
    "DELETE /admin/keys/{key_id}": "key.revoke",
    "POST /admin/drain": "server.drain",
    "DELETE /v1/files/{file_id}": "file.delete",
    "POST /v1/batches": "batch.create",
    "POST /v1/batches/{batch_id}/cancel": "batch.cancel",
    "DELETE /corpora/{corpus_id}": "corpus.delete",
    "DELETE /train-jobs/{job_id}": "job.delete",
    "POST /train-jobs/{job_id}/cancel": "job.cancel",
    "POST /v1/fine_tuning/jobs/{job_id}/cancel": "job.cancel",
    "POST /train-jobs/{job_id}/publish": "job.publish",
}
"""What is audited, by method and template. Every change that needs the scope `admin` is here."""

MAX_WAITING = 1_000
MAX_TARGET_CHARACTERS = 200

_log = logging.getLogger("carousel.audit")
_problems = logging.getLogger(__name__)

router = APIRouter(prefix="/admin", tags=["admin"])


class AuditRecord(BaseModel):
    """One audited request."""

    id: str  # of the record; ids grow
    time: float  # Unix time
    action: str
    target: str  # the model, alias, key or job; "" where a refused body was to name it
    outcome: str  # "done", or the error's code
    status: int
    request_id: str
    address: str  # of the client
    key: str = ""  # the id of its key; "" without one
    owner: str = ""  # a tag of the key's owner, as in the log


class AuditRecords(BaseModel):
    """Records of the audit trail, the newest first."""

    records: list[AuditRecord]
    before: str | None  # of the next page; None: this is the last one


@router.get("/audit")
async def list_audit(
    request: Request,
    before: Annotated[str, Query(max_length=48)] = "",
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
) -> AuditRecords:
    """List who changed models, aliases, keys and jobs, the newest first."""
    found = await get_state(request).audit.older(before, limit)
    records = [AuditRecord.model_validate({"id": one} | fields) for one, fields in found]
    last = records[-1].id if len(records) == limit else None
    return AuditRecords(records=records, before=last)


class AuditTrail:
    """Records audited requests in the log and in the store. For one event loop.

    The log has each of them; the store may lack one that ended while it did not answer. A caller
    that has not been authenticated has changed nothing, and is not in the trail.
    """

    def __init__(
        self,
        keep: Callable[[Mapping[str, str]], Awaitable[None]],
        tag_of_owner: Callable[[str], str],
    ) -> None:
        """`keep` stores one record."""
        self._keep, self._tag_of_owner = keep, tag_of_owner
        self._waiting: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()  # so that the records keep their order

    def ended(self, request: EndedRequest) -> None:
        """Record a request if it is audited."""
        action = ACTIONS.get(f"{request.method} {request.route}")
        if action is None or request.status == 401:
            return
        caller = request.caller
        is_done = request.status < 400
        record = {
            "action": action,
            "target": request.target[:MAX_TARGET_CHARACTERS],
            "outcome": "done" if is_done else request.error_type or "error",
            "status": str(request.status),
            "request_id": request.request_id,
            "address": request.address,
            "key": caller.key_id or "",
            "owner": self._tag_of_owner(caller.owner) if caller.owner else "",
        }
        _log.info("audit", extra=record)
        # What a key without the scope has tried would push out what others have done.
        if request.error_type != "forbidden" and len(self._waiting) < MAX_WAITING:
            task = asyncio.ensure_future(self._store(record | {"time": f"{time.time():.3f}"}))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _store(self, record: Mapping[str, str]) -> None:
        try:
            async with self._one_at_a_time:
                await self._keep(record)
        except CarouselError as error:
            _problems.warning("an audit record is only in the log: %s", error)
