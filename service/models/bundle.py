"""A model version on disk: manifest, weights, vocabulary, and tokenizer.json for subwords."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from service.errors import BadCheckpoint, reason_of
from service.models.spec import ModelRef, ModelSpec, Weights
from service.models.tokenizers import read_tokenizer
from service.models.tokenizers.special_tokens import UnknownPolicy
from service.models.tokenizers.subwords import TOKENIZER_JSON
from service.models.tokenizers.tokenizer import Tokenizer

MANIFEST, WEIGHTS, VOCABULARY = "manifest.json", "weights.safetensors", "vocabulary.json"
TOKENIZER_FILES = (TOKENIZER_JSON,)  # files that only some tokenizers have


class Precision(StrEnum):
    """The number format of a program's matrix products."""

    FLOAT32 = "float32"
    INT8 = "int8"
    FLOAT16 = "float16"  # chosen by a load or by the device; no bundle records it


WantedPrecision = Literal["auto", "float32", "int8"]
"""A precision; `auto` chooses by the cost of int8."""


class Provenance(BaseModel):
    """The origin of a bundle: the checkpoint's format and the sha256 of each file read."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: str
    files: dict[str, str]


class WindowRecord(BaseModel):
    """What carried state would change in a model that reads a window for each token.

    Both were given the same text of `tokens` tokens: `nats_window` and `nats_carried` are the
    cross-entropy per token; `same_next_token` is the share of positions at which both have the same
    most likely token.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    tokens: int
    nats_window: float
    nats_carried: float | None  # None: the carried state overflows
    same_next_token: float

    @property
    def sentence(self) -> str:
        """The record and the price of the window in one sentence."""
        if self.nats_carried is None:
            return "with carried state the model's numbers overflow: only its window can be read"
        return (
            f"with carried state it would be {self.nats_carried:.3f} nats per token instead of "
            f"{self.nats_window:.3f}, and the same next token in {self.same_next_token:.0%} of "
            f"{self.tokens} places; a window costs as many steps for each token as it has tokens"
        )


class Parity(BaseModel):
    """The deviation of each precision from the float64 reference when the bundle was created.

    `largest_logit_difference` is over `tokens` random tokens; `nats_per_character` is the
    cross-entropy of each precision on a text that the model generated. `window` compares the window
    of a model with carried state on that text, `window_of_text` on the training text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    tokens: int
    largest_logit_difference: dict[Precision, float]
    characters: int = 0
    nats_per_character: dict[Precision, float] = Field(default_factory=dict)
    window: WindowRecord | None = None
    window_of_text: WindowRecord | None = None


class BundleMetadata(BaseModel):
    """The part of a manifest that does not follow from the bundle's other files."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    precision: Precision
    precision_reason: str
    assumptions: tuple[str, ...] = ()
    source: Provenance
    parity: Parity
    round_trip: str = ""  # of random token sequences through text; empty: not measured
    text_score: str = ""  # of the training text; empty: none was given
    generation_defaults: dict[str, JsonValue] = Field(default_factory=dict)
    training: dict[str, JsonValue] = Field(default_factory=dict)


class Manifest(BundleMetadata):
    """The content of manifest.json."""

    format: Literal[1] = 1
    name: str
    version: int
    created_at: str
    digest: str
    architecture: dict[str, JsonValue]
    unknown_character: UnknownPolicy = UnknownPolicy.ERROR
    tokenizer: dict[str, JsonValue] = Field(default_factory=dict)  # empty: characters
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model that can be served: specification, weights, tokenizer and manifest."""

    spec: ModelSpec
    weights: Weights
    tokenizer: Tokenizer
    manifest: Manifest

    @property
    def ref(self) -> ModelRef:
        """The model's name and version."""
        return ModelRef(self.manifest.name, self.manifest.version)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the bundle in `folder` and verify its digests. Raises BadCheckpoint."""
        try:
            manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
            weights_bytes = _verified(folder / WEIGHTS, manifest.files)
            vocabulary_bytes = _verified(folder / VOCABULARY, manifest.files)
            spec = ModelSpec.from_json(manifest.architecture)
            tokens = json.loads(vocabulary_bytes)
            others = {
                name: _verified(folder / name, manifest.files)
                for name in TOKENIZER_FILES
                if name in manifest.files
            }
            tokenizer = read_tokenizer(
                tokens, manifest.unknown_character, manifest.tokenizer, others
            )
            weights = Weights(spec, load_safetensors(weights_bytes))
        except (OSError, ValidationError, SafetensorError, ValueError) as error:
            raise BadCheckpoint(f"the bundle cannot be read: {reason_of(error)}") from error
        check_vocabulary_fits(spec, tokenizer)
        return cls(spec, weights, tokenizer, manifest)


def check_vocabulary_fits(spec: ModelSpec, tokenizer: Tokenizer) -> None:
    """Raise BadCheckpoint if the vocabulary's size is not that of the weights."""
    if len(tokenizer) != spec.vocabulary_size:
        raise BadCheckpoint(
            f"the vocabulary has {len(tokenizer)} tokens, "
            f"but the weights are made for {spec.vocabulary_size}"
        )


def build_files(
    ref: ModelRef, spec: ModelSpec, weights: Weights, tokenizer: Tokenizer, record: BundleMetadata
) -> dict[str, bytes]:
    """Return the files of a bundle by name, for `ModelStore.write`."""
    files = content_files(weights, tokenizer)
    # The model's identity: sha256 over architecture, weights and vocabulary.
    options = dict(tokenizer.options)
    identity = [spec.to_json(), tokenizer.unknown, *([options] if options else [])]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for name in (WEIGHTS, VOCABULARY, *sorted(tokenizer.files)):
        digest.update(hashlib.sha256(files[name]).digest())
    manifest = Manifest(
        name=ref.name,
        version=ref.version,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        digest=digest.hexdigest(),
        architecture=spec.to_json(),
        unknown_character=tokenizer.unknown,
        tokenizer=options,
        files={name: sha256_hex(content) for name, content in files.items()},
        **record.model_dump(),
    )
    return files | {MANIFEST: manifest.model_dump_json(indent=2).encode()}


def content_files(weights: Weights, tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the content of a bundle's files other than the manifest, by name."""
    return {
        WEIGHTS: save_safetensors(dict(weights)),
        VOCABULARY: json.dumps(tokenizer.tokens, ensure_ascii=False).encode(),
        **tokenizer.files,
    }


def sha256_hex(content: bytes) -> str:
    """Return the sha256 of `content` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _verified(path: Path, digests: dict[str, str]) -> bytes:
    content = path.read_bytes()
    if sha256_hex(content) != digests.get(path.name):
        raise BadCheckpoint(f"{path.name} is not the file that the manifest describes")
    return content
