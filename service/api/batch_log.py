"""The log record of a batch that is over: what its lines were, as a request's record says it."""

import logging
import time
from collections.abc import Callable

from service.batch.batch_store import BatchRecord

_log = logging.getLogger("carousel.batches")


class BatchLog:
    """Writes one record for each batch. It has no prompt, no generated text and no file name."""

    def __init__(self, tag_of_owner: Callable[[str], str]) -> None:
        """`tag_of_owner` shortens an owner to a tag that only this server's secret makes."""
        self._tag_of_owner = tag_of_owner

    def ended(self, batch: BatchRecord) -> None:
        """Write the record of a batch whose end is stored."""
        spec, state = batch.spec, batch.state
        fields: dict[str, object] = {
            "batch": spec.id,
            "route": spec.endpoint,
            "status": str(state.status),
            "duration_ms": round(1e3 * (time.time() - spec.created_at)),
            "lines": state.total,
            "completed": state.completed,
            "failed": state.failed,
        }
        if spec.key_id is not None:
            fields["key"] = spec.key_id
        if spec.owner:
            fields["owner"] = self._tag_of_owner(spec.owner)
        if state.errors:
            fields["error_type"] = state.errors[0].code
        _log.info("batch", extra=fields)
