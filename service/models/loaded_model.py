"""A model in memory, the state of each stored version in this process, and what runs a model."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from service.models.bundle import Manifest, Precision
from service.models.retention import Retention
from service.models.spec import ModelRef, ModelSpec
from service.models.tokenizers.tokenizer import Tokenizer


class Runtime(Protocol):
    """What runs a loaded model: its engine, and what its requests share."""

    @property
    def is_busy(self) -> bool:
        """Whether a generation runs or waits, be it one whose client has gone."""

    def start(self) -> None:
        """Start serving the running event loop."""

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work and wait for the running work; cancel it at the deadline."""

    def close(self) -> None:
        """Free all resources. Blocks. Does nothing the second time."""


R = TypeVar("R", bound=Runtime)


class ModelStatus(StrEnum):
    """The state of a stored model in this process."""

    STORED = "stored"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LoadedModel(Generic[R]):
    """A model in memory."""

    spec: ModelSpec
    tokenizer: Tokenizer
    manifest: Manifest
    precision: Precision
    runtime: R
    size_bytes: int  # an upper bound of its memory, which counts against the budget
    ref: ModelRef = field(init=False)  # its name and version
    state_units: tuple[int, ...] = field(init=False)  # of `spec`

    def __post_init__(self) -> None:
        """Make what each request reads."""
        object.__setattr__(self, "ref", ModelRef(self.manifest.name, self.manifest.version))
        object.__setattr__(self, "state_units", self.spec.state_units)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One entry of the list of models. The manifest of a damaged bundle is None."""

    ref: ModelRef
    status: ModelStatus
    manifest: Manifest | None
    precision: Precision | None
    size_bytes: int
    error: str | None
    retention: Retention
    leases: int  # requests that use it, or wait for it
