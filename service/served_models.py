"""The composition of a server's models: its registry, and how a bundle becomes a runtime."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from service.api.sse import EventEncoder
from service.api.state import ModelRuntime
from service.constraints.compiler import ConstraintCompiler
from service.constraints.token_texts import TokenTexts
from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.engine_stats import EngineStats
from service.generation.memory_estimate import estimate_memory
from service.generation.prefix_cache import PrefixCache, PrefixLookups, ScopedPrefixCache
from service.generation.state_reader import StateReader
from service.inspection.ablator import Ablator
from service.inspection.inspection_thread import InspectionThread
from service.inspection.inspector import Inspector
from service.metrics import families
from service.metrics.metrics import Metrics
from service.metrics.model_totals import Counts
from service.models.bundle import Bundle, Precision
from service.models.device import Device, device_of
from service.models.gpu_memory import GpuMemory
from service.models.kernel_choice import KernelChoices
from service.models.memory_budget import MemoryBudget
from service.models.program_compiler import ProgramCompiler
from service.models.registry import Registry, RegistryConfig
from service.models.residency import ResidencyConfig
from service.models.spec import ModelRef, ModelSpec, Weights
from service.models.store import ModelStore
from service.models.tokenizers.tokenizer import Tokenizer
from service.sessions.model import SessionModel
from service.settings import Settings
from service.steered_models import SteeredModels


def _token_texts(tokenizer: Tokenizer) -> TokenTexts:
    tokens = map(tokenizer.bytes_of, range(len(tokenizer)))
    return TokenTexts.of_bytes(tokens, tokenizer.joiner, tokenizer.end_ids)


def _counts(model: str, stats: EngineStats, lookups: PrefixLookups) -> Counts:
    """Return what one load of a model has counted: its engine, and its part of the cache."""
    return {
        families.STEP_ROWS_USED: {(model,): stats.rows},
        families.GENERATED_TOKENS: {(model,): stats.generated_tokens + stats.beam_tokens},
        families.PROMPT_TOKENS: {
            (model, "fed"): stats.prompt_tokens,
            (model, "known"): lookups.known_tokens,
        },
        families.PREFIX_LOOKUPS: {(model, "hit"): lookups.hits, (model, "miss"): lookups.misses},
    }


def make_registry(
    settings: Settings,
    store: ModelStore,
    config: EngineConfig,
    cache: PrefixCache,
    metrics: Metrics,
    inspections: InspectionThread,
) -> Registry[ModelRuntime]:
    """Return the registry of a server, whose runtimes share a prefix cache and the metrics."""
    registry_config = RegistryConfig(
        settings.memory_budget_bytes,
        autoload=settings.autoload,
        device=settings.device,
        residency=ResidencyConfig(load_wait_s=settings.load_wait_s),
        keeps_record=not settings.has_shared_store,
    )
    budget = MemoryBudget(settings.memory_budget_bytes)
    steering = SteeredModels(settings, config, store, budget, metrics)
    make = _make_runtime(settings, store, config, cache, metrics, inspections, steering)

    def size_of(spec: ModelSpec, precision: Precision) -> int:
        device = device_of(settings.device, precision)
        given = config if device is Device.CPU else gpu_config(config, settings.gpu_rows)
        return estimate_memory(spec, given).total

    return Registry(store, make, registry_config, size_of, budget)


def gpu_config(config: EngineConfig, rows: int) -> EngineConfig:
    """Return the limits of an engine on a GPU, where a step of few rows takes as long as of all."""
    scale = max(1, rows // config.max_rows)
    return replace(
        config,
        max_rows=rows,
        max_row_steps=scale * config.max_row_steps * config.step_overhead_rows,
        shared_rows=rows,
        shared_row_steps=config.step_overhead_rows * rows,
        shared_memory_row_steps=scale * config.shared_memory_row_steps,
        idle_credit_row_steps=scale * config.idle_credit_row_steps,
    )


def _weights_of(store: ModelStore, ref: ModelRef) -> Weights:
    return store.read(ref).weights


def _make_runtime(
    settings: Settings,
    store: ModelStore,
    config: EngineConfig,
    cache: PrefixCache,
    metrics: Metrics,
    inspections: InspectionThread,
    steering: SteeredModels,
) -> Callable[[Bundle, Precision], ModelRuntime]:
    kernels = KernelChoices(settings.model_store, settings.int8_kernel, settings.int4_weights)
    memory = GpuMemory(None if settings.gpu_memory is None else int(settings.gpu_memory))
    threads, on_gpu = settings.threads, gpu_config(config, settings.gpu_rows)
    compiler = ProgramCompiler(kernels, settings.device, threads, settings.spins, memory)

    def make(bundle: Bundle, precision: Precision) -> ModelRuntime:
        began_s = time.perf_counter()
        device = compiler.device_of(precision)
        limits = on_gpu if device is Device.GPU else config
        rows = limits.rows_of(bundle.spec.vocabulary_size)
        program = compiler.compile(bundle, precision, rows)
        engine = Engine(program, bundle.tokenizer, limits, name=str(bundle.ref), threads=threads)
        constraints = ConstraintCompiler(_token_texts(bundle.tokenizer))
        prefixes = ScopedPrefixCache(cache, b"").scoped(bundle.manifest.digest, precision)
        took = metrics.histogram(families.MODEL_LOAD, (str(bundle.ref),))
        took.observe(time.perf_counter() - began_s)
        name = str(bundle.ref)
        metrics.totals.add(name, partial(_counts, name, engine.stats, prefixes.lookups))
        encoder, reader = EventEncoder(bundle.tokenizer), StateReader(program, bundle.spec)
        ablator = Ablator(
            bundle.spec, precision, partial(_weights_of, store, bundle.ref), inspections
        )
        inspector = Inspector(program, bundle.spec, inspections, ablator)
        served = None if device is Device.GPU else program
        steered = steering.engine_of(bundle, precision, prefixes, served)
        for_sessions = SessionModel(
            name,
            bundle.manifest.digest,
            bundle.spec.state_units,
            bundle.tokenizer,
            engine,
            constraints,
            bundle.spec,
            steered,
        )
        return ModelRuntime(
            engine, encoder, constraints, prefixes, reader, inspector, for_sessions, steered, device
        )

    return make
