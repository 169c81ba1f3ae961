"""The composition of a server's models: its registry, and how a bundle becomes a runtime."""

import time
from collections.abc import Callable

from service.api.sse import EventEncoder
from service.api.state import ModelRuntime
from service.constraints.compiler import ConstraintCompiler
from service.constraints.token_texts import TokenTexts
from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.memory_estimate import estimate_memory
from service.generation.prefix_cache import PrefixCache, ScopedPrefixCache
from service.generation.state_reader import StateReader
from service.metrics.families import MODEL_LOAD
from service.metrics.metrics import Metrics
from service.models.bundle import Bundle, Precision
from service.models.kernel_choice import KernelChoices
from service.models.parity import check_here
from service.models.registry import Registry, RegistryConfig
from service.models.residency import ResidencyConfig
from service.models.store import ModelStore
from service.models.tokenizers.tokenizer import Tokenizer
from service.settings import Settings


def _token_texts(tokenizer: Tokenizer) -> TokenTexts:
    tokens = map(tokenizer.bytes_of, range(len(tokenizer)))
    return TokenTexts.of_bytes(tokens, tokenizer.joiner, tokenizer.end_ids)


def make_registry(
    settings: Settings,
    store: ModelStore,
    config: EngineConfig,
    cache: PrefixCache,
    metrics: Metrics,
) -> Registry[ModelRuntime]:
    """Return the registry of a server, whose runtimes share a prefix cache and the metrics."""
    registry_config = RegistryConfig(
        settings.memory_budget_bytes,
        autoload=settings.autoload,
        residency=ResidencyConfig(load_wait_s=settings.load_wait_s),
        keeps_record=not settings.has_shared_store,
    )
    make = _make_runtime(settings, config, cache, metrics)
    return Registry(store, make, registry_config, lambda spec: estimate_memory(spec, config).total)


def _make_runtime(
    settings: Settings, config: EngineConfig, cache: PrefixCache, metrics: Metrics
) -> Callable[[Bundle, Precision], ModelRuntime]:
    threads, spins = settings.threads, settings.spins
    kernels = KernelChoices(settings.model_store, settings.int8_kernel, settings.int4_weights)

    def make(bundle: Bundle, precision: Precision) -> ModelRuntime:
        began_s = time.perf_counter()
        program = kernels.compile(bundle, precision, threads, spins=spins)
        check_here(program, bundle, precision)
        engine = Engine(program, bundle.tokenizer, config, name=str(bundle.ref), threads=threads)
        constraints = ConstraintCompiler(_token_texts(bundle.tokenizer))
        prefixes = ScopedPrefixCache(cache, b"").scoped(bundle.manifest.digest, precision)
        took = metrics.histogram(MODEL_LOAD, (str(bundle.ref),))
        took.observe(time.perf_counter() - began_s)
        encoder, reader = EventEncoder(bundle.tokenizer), StateReader(program, bundle.spec)
        return ModelRuntime(engine, encoder, constraints, prefixes, reader)

    return make
