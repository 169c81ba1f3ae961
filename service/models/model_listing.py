"""What a registry says of its models: which are loaded, and a description of each version."""

from collections.abc import Callable, Iterable, Iterator
from typing import Generic

from service.errors import ModelNotFound
from service.models.loaded_model import LoadedModel, ModelInfo, ModelStatus, R
from service.models.model_entry import ModelEntry
from service.models.spec import ModelRef
from service.models.store import ModelStore


class ModelListing(Generic[R]):
    """The versions of a store, as they are in this process. One event loop only."""

    def __init__(self, store: ModelStore, *, is_autoloading: bool) -> None:
        self._store, self._is_autoloading = store, is_autoloading
        self._entries: dict[ModelRef, ModelEntry[R]] = {}
        self._leaving: Callable[[], Iterable[LoadedModel[R]]] = tuple  # of models that drain

    @property
    def has_models(self) -> bool:
        """Whether a request for some model can be served: one is ready, or can be loaded for it."""
        statuses = {entry.status for entry in self._entries.values()}
        return ModelStatus.READY in statuses or (
            self._is_autoloading and bool(statuses - {ModelStatus.FAILED})
        )

    def loaded(self) -> Iterator[LoadedModel[R]]:
        """Iterate over the models that are ready."""
        for entry in self._entries.values():
            if entry.loaded is not None and entry.status is ModelStatus.READY:
                yield entry.loaded

    def in_memory(self) -> Iterator[LoadedModel[R]]:
        """Iterate over the models that generate: those that are ready, and those that drain."""
        yield from (entry.loaded for entry in self._entries.values() if entry.loaded is not None)
        yield from self._leaving()

    def loading(self) -> set[ModelRef]:
        """Return the versions that are being loaded."""
        return {ref for ref, one in self._entries.items() if one.status is ModelStatus.LOADING}

    def info(self, ref: ModelRef) -> ModelInfo:
        """Describe one version. Raises ModelNotFound."""
        entry = self._entry(ref)
        return entry.info(ref, entry.loaded.manifest if entry.loaded else self._store.inspect(ref))

    def listings(self) -> list[ModelInfo]:
        """Describe every version, in order."""
        return [self.info(ref) for ref in sorted(self._entries)]

    def servable(self) -> list[ModelInfo]:
        """Describe the versions that a request can name: loaded, or loaded for it."""
        return [
            self.info(ref)
            for ref, entry in sorted(self._entries.items())
            if entry.status is ModelStatus.READY
            or (self._is_autoloading and entry.status is not ModelStatus.FAILED)
        ]

    def digests(self) -> dict[ModelRef, str]:
        """Return the digest of each version that is ready."""
        return {model.ref: model.manifest.digest for model in self.loaded()}

    def failure(self, ref: ModelRef) -> str | None:
        """Return why a version could not be loaded; None if it was not tried, or is in memory."""
        entry = self._entries.get(ref)
        if entry is None:
            return f"no model {ref} is stored"
        return entry.error if entry.loaded is None else None

    def _entry(self, ref: ModelRef) -> ModelEntry[R]:
        try:
            return self._entries[ref]
        except KeyError:
            raise ModelNotFound(f"no model {ref} is stored") from None
