"""The request for an import, its limits, and the report that the child process returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter

from service.models.bundle import BundleMetadata, WantedPrecision
from service.models.importing.assumptions import check_assume
from service.models.importing.folder import ImportFolder, confined
from service.models.spec import ModelRef, check_name
from service.models.tokenizers.special_tokens import UnknownPolicy
from service.sandbox import SandboxLimits

_GIB = 1024**3
_FILES = ("vocabulary", "vocabulary_text", "config")


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """A checkpoint to import. Paths are relative to the import folder.

    `source` is a file, a folder of TensorFlow checkpoints or the prefix of one. At least one of
    `vocabulary` (in any form that `vocabulary.py` reads) and `vocabulary_text` (the training text)
    is given, unless the file has a vocabulary; of both the text checks the vocabulary. `config` is
    the architecture of a file that has only weights: Keras's `to_json()` or textgenrnn's config.
    `version` None is the next free one.
    """

    source: Path
    name: str
    version: int | None = None
    vocabulary: Path | None = None
    vocabulary_text: Path | None = None
    config: Path | None = None
    precision: WantedPrecision = "auto"
    assume: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise Validation if the request is invalid whatever the files hold."""
        check_name(self.name)
        if self.version is not None:
            ModelRef(self.name, self.version)
        confined(str(self.source), "source")
        for name in _FILES:
            if (path := getattr(self, name)) is not None:
                confined(str(path), name)
        check_assume(self.assume)

    def check_files(self, folder: ImportFolder) -> None:
        """Raise Validation, with the field, if a file of the request is absent or not allowed."""
        folder.check(PurePosixPath(self.source), "source", is_source=True)
        for name in _FILES:
            if (path := getattr(self, name)) is not None:
                folder.check(PurePosixPath(path), name)


@dataclass(frozen=True, slots=True)
class ImportLimits(SandboxLimits):
    """Limits of one import. A parameter takes about 50 bytes of `memory_bytes`.

    `file_bytes` is the limit of each file that is read or written. `read_cpu_s` is the part of
    `cpu_s` until all weights are read: a damaged HDF5 file can make its library loop forever.
    """

    memory_bytes: int = 6 * _GIB
    cpu_s: int = 600
    file_bytes: int = 6 * _GIB
    wall_s: float = 900.0
    read_cpu_s: float = 120.0


class ImportReport(BaseModel):
    """What the child reports of a model; it writes the weights and the vocabulary as files."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    architecture: dict[str, JsonValue]
    unknown_character: UnknownPolicy
    tokenizer: dict[str, JsonValue]
    files: tuple[str, ...] = ()  # the names of the tokenizer's own files
    metadata: BundleMetadata


CHILD_ARGUMENT = TypeAdapter(tuple[ImportRequest, Path, ImportLimits])
"""The child's argument as JSON values and back: the request, the import folder, the limits."""
