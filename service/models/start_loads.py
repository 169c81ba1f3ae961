"""The loads of a start: the models of the record, and an older version for one that fails."""

import logging
from collections.abc import Iterable, Mapping

from service.errors import CarouselError, MemoryBudgetExceeded
from service.models.loaded_model import ModelStatus, R
from service.models.model_entry import ModelEntry
from service.models.residency import Residency
from service.models.spec import ModelRef

_log = logging.getLogger(__name__)


async def load_recorded(
    refs: Iterable[ModelRef],
    entries: Mapping[ModelRef, ModelEntry[R]],
    residency: Residency[R],
    *,
    autoload: bool,
) -> dict[ModelRef, ModelRef]:
    """Load versions; return the older ones that stand in, by the version that has failed.

    A version that cannot be loaded is `failed`, and the others are loaded. With `autoload` those
    that the budget has no room for stay `stored`. Raises nothing.
    """
    stand_ins = {}
    for ref in refs:
        if not entries[ref].is_wanted:  # it was unloaded since the start
            continue
        try:
            await residency.load_if_needed(ref, entries[ref], may_evict=False)
        except MemoryBudgetExceeded as error:
            if autoload:
                entries[ref].status, entries[ref].error = ModelStatus.STORED, None
            else:
                _log.error("%s cannot be loaded: %s", ref, error)
        except CarouselError as error:
            _log.error("%s cannot be loaded: %s", ref, error)
            older = await _load_older(ref, entries, residency)
            if older is not None:
                _log.warning("%s is served: %s, which is newer, cannot be loaded", older, ref)
                stand_ins[ref] = older
    return stand_ins


async def _load_older(
    failed: ModelRef, entries: Mapping[ModelRef, ModelEntry[R]], residency: Residency[R]
) -> ModelRef | None:
    """Load the newest older version of a model that works, if none of it is loaded."""
    versions = sorted((ref for ref in entries if ref.name == failed.name), reverse=True)
    if any(entries[ref].is_ready for ref in versions):
        return None
    for ref in versions:
        if ref.version < failed.version and not entries[ref].is_wanted:
            try:
                await residency.load_if_needed(ref, entries[ref], may_evict=False)
            except CarouselError as error:
                _log.error("%s cannot be loaded either: %s", ref, error)
            else:
                return ref
    return None
