"""The memory of a server's models by its parts, as the metrics and the list of models show it."""

from dataclasses import dataclass

from service.api.state import AppState
from service.generation.memory_estimate import estimate_memory


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Bytes by part. The first four are upper bounds for the loaded models; caches are counted."""

    weights: int
    programs: int
    states: int  # of the batches: a row for each generation that may run
    texts: int
    prefix_cache: int
    constraint_tables: int


def memory_usage(state: AppState) -> MemoryUsage:
    """Return what the loaded models and their caches take now. Event loop only."""
    models = list(state.registry.loaded())
    estimates = [estimate_memory(model.spec, model.runtime.engine.config) for model in models]
    return MemoryUsage(
        weights=sum(each.weights for each in estimates),
        programs=sum(each.program for each in estimates),
        states=sum(each.states for each in estimates),
        texts=sum(each.texts for each in estimates),
        prefix_cache=state.prefix_cache.size_bytes,
        constraint_tables=sum(model.runtime.constraints.size_bytes for model in models),
    )
