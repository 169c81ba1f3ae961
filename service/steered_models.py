"""The composition of steering: how a loaded model gets a second program, whose rows are steered."""

from dataclasses import dataclass
from functools import partial

from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.engine_stats import EngineStats
from service.generation.memory_estimate import steered_bytes
from service.generation.prefix_cache import ScopedPrefixCache
from service.generation.steered_engine import SteeredEngine, SteeredModel
from service.metrics import families
from service.metrics.metrics import Metrics
from service.metrics.model_totals import Counts
from service.models.bundle import Bundle, Precision
from service.models.memory_budget import MemoryBudget
from service.models.parity import check_here
from service.models.spec import ModelRef
from service.models.step import StepProgram
from service.models.store import ModelStore
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class SteeredModels:
    """Makes the steered engines of a server's models. Any thread may use it."""

    settings: Settings
    config: EngineConfig
    store: ModelStore
    budget: MemoryBudget
    metrics: Metrics

    def engine_of(
        self,
        bundle: Bundle,
        precision: Precision,
        prefixes: ScopedPrefixCache,
        served: StepProgram | None,
    ) -> SteeredEngine:
        """Return the steered engine of a model; it reads the weights again when it is needed.

        `served` is the model's own program, None where its bytes are sure to differ.
        """
        make = partial(self._make, bundle.ref, precision, prefixes, served)
        return SteeredEngine(make, steered_bytes(bundle.spec, self.config), self.budget)

    def _make(
        self,
        ref: ModelRef,
        precision: Precision,
        prefixes: ScopedPrefixCache,
        served: StepProgram | None,
    ) -> SteeredModel:
        from service.models.steered_program import (  # noqa: PLC0415 (it needs ONNX Runtime)
            SteeredProgram,
            has_same_bytes,
        )

        bundle, threads = self.store.read(ref), self.settings.threads
        spins = self.settings.spins
        program = SteeredProgram(bundle.spec, bundle.weights, precision, threads, spins=spins)
        check_here(program, bundle, precision)
        is_same = served is not None and has_same_bytes(program, served)
        name = f"{ref} steered"
        engine = Engine(program, bundle.tokenizer, self.config, name=name, threads=threads)
        self.metrics.totals.add(str(ref), partial(_counts, str(ref), engine.stats))
        return SteeredModel(
            engine, program, prefixes if is_same else prefixes.scoped("steered"), is_same
        )


def _counts(model: str, stats: EngineStats) -> Counts:
    """Return what a steered engine has counted; its lookups of prefixes are the model's."""
    return {
        families.STEP_ROWS_USED: {(model,): stats.rows},
        families.GENERATED_TOKENS: {(model,): stats.generated_tokens},
        families.PROMPT_TOKENS: {(model, "fed"): stats.prompt_tokens},
    }
