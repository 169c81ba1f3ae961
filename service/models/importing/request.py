"""What an import is asked to do, how much it may use, and what the child answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, TypeAdapter

from service.errors import Validation
from service.models.bundle import Parity, Precision, Provenance, WantedPrecision
from service.models.importing.assumptions import check_assume
from service.models.importing.folder import confined
from service.models.spec import ModelRef, check_name
from service.models.tokenizer import UnknownPolicy

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """A checkpoint to import. Paths are relative to the import folder.

    `source` is a file, a folder of TensorFlow checkpoints or the prefix of one. Exactly one of
    `vocabulary` (a JSON list or object, or one token a line) and `vocabulary_text` (the training
    text) is given. `version` None is the next one.
    """

    source: Path
    name: str
    version: int | None = None
    vocabulary: Path | None = None
    vocabulary_text: Path | None = None
    precision: WantedPrecision = "auto"
    assume: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise Validation where the request has no meaning, whatever the files hold."""
        check_name(self.name)
        if self.version is not None:
            ModelRef(self.name, self.version)
        if (self.vocabulary is None) == (self.vocabulary_text is None):
            raise Validation(
                "give either `vocabulary` (a JSON list, or one token a line) or `vocabulary_text` "
                "(the training text)"
            )
        confined(str(self.source), "source")
        for name in ("vocabulary", "vocabulary_text"):
            if (path := getattr(self, name)) is not None:
                confined(str(path), name)
        check_assume(self.assume)


@dataclass(frozen=True, slots=True)
class ImportLimits:
    """What one import may use. `memory_bytes` is address space; a parameter takes about 50 bytes.

    `file_bytes` bounds each file that is read or written. `read_cpu_s` is the part of `cpu_s` that
    may pass until all weights are read: a damaged HDF5 file can send its library into a circle.
    """

    memory_bytes: int = 6 * _GIB
    cpu_s: int = 600
    read_cpu_s: float = 120.0
    file_bytes: int = 6 * _GIB
    wall_s: float = 900.0


@dataclass(frozen=True, slots=True)
class Order:
    """All that the child is told."""

    request: ImportRequest
    limits: ImportLimits
    folder: Path
    output: Path


Sentence = Annotated[
    str, BeforeValidator(lambda text: text.encode("utf-8", "backslashreplace").decode())
]
"""Text that may quote a file: what is not a character is written out as \\udc80."""


class ImportReport(BaseModel):
    """What the child found; the weights and the vocabulary lie beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    architecture: dict[str, JsonValue]
    precision: Precision
    precision_reason: str
    assumptions: tuple[Sentence, ...]
    unknown_character: UnknownPolicy
    source: Provenance
    parity: Parity


class Outcome(BaseModel):
    """What the child answers: a report, or the code and the sentence of a refusal."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    report: ImportReport | None = None
    code: str = ""
    sentence: Sentence = ""
    peak_memory_bytes: int


ORDERS = TypeAdapter(Order)
"""Orders as JSON and back."""


def over_memory(limit_bytes: int) -> str:
    """The sentence for an import that needs more memory than it may have."""
    return (
        f"the import needs more than its {limit_bytes} bytes of memory; "
        "a smaller model, or a higher limit, would do"
    )
