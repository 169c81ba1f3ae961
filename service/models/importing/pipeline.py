"""The steps of an import inside the child process: checkpoint → model → report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from service.errors import BadCheckpoint
from service.models.bundle import (
    BundleMetadata,
    Provenance,
    WantedPrecision,
    check_vocabulary_fits,
)
from service.models.importing.assumptions import Assumptions
from service.models.importing.canonical_weights import convert, match_layers
from service.models.importing.checkpoint import Checkpoint, StoredLayer
from service.models.importing.detect_format import read_checkpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.infer_spec import infer_spec
from service.models.importing.keras_config import read_architecture
from service.models.importing.request import ImportReport, ImportRequest
from service.models.parity import measure
from service.models.spec import ModelSpec, Weights
from service.models.tokenizer import Tokenizer, read_vocabulary, vocabulary_of_text

MAX_VOCABULARY_BYTES = 8 * 1024 * 1024
MAX_TEXT_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A model that is read and converted but not yet measured."""

    format: str
    spec: ModelSpec
    weights: Weights
    tokenizer: Tokenizer
    assumptions: tuple[str, ...]


def read_model(request: ImportRequest, folder: ImportFolder) -> ImportedModel:
    """Read and convert a checkpoint and its vocabulary.

    Raises BadCheckpoint if the files cannot be served; the message names the layer and the reason;
    Validation if the request does not fit the files; TooLarge if a file is larger than its limit.
    """
    checkpoint = read_checkpoint(folder, PurePosixPath(request.source))
    assumptions = Assumptions(request.assume, checkpoint.keras_version)
    spec, layers = architecture_of(checkpoint, assumptions)
    tokenizer = _tokenizer(request, folder, spec, assumptions)
    weights = convert(spec, layers, assumptions)
    return ImportedModel(checkpoint.format, spec, weights, tokenizer, tuple(assumptions.sentences))


def measure_model(
    model: ImportedModel, precision: WantedPrecision, digests: Mapping[str, str]
) -> ImportReport:
    """Measure a model in each precision and report on it. Raises as `parity.measure`.

    `digests` maps the name of each file that was read to its sha256.
    """
    verdict = measure(model.spec, model.weights, precision, model.tokenizer.special_ids)
    return ImportReport(
        architecture=model.spec.to_json(),
        unknown_character=model.tokenizer.unknown,
        metadata=BundleMetadata(
            precision=verdict.precision,
            precision_reason=verdict.reason,
            assumptions=model.assumptions,
            source=Provenance(format=model.format, files=dict(digests)),
            parity=verdict.parity,
        ),
    )


def architecture_of(
    checkpoint: Checkpoint, assumptions: Assumptions
) -> tuple[ModelSpec, tuple[StoredLayer, ...]]:
    """Return the spec, from the config if there is one, and the stored layers in its order."""
    for note in checkpoint.notes:
        assumptions.note(note)
    if checkpoint.config is None:
        return infer_spec(checkpoint.layers, assumptions)
    architecture = read_architecture(checkpoint.config, assumptions)
    return architecture.spec, match_layers(architecture, checkpoint.layers)


def _tokenizer(
    request: ImportRequest, folder: ImportFolder, spec: ModelSpec, assumptions: Assumptions
) -> Tokenizer:
    if request.vocabulary is not None:
        path = PurePosixPath(request.vocabulary)
        tokens = read_vocabulary(folder.read(path, MAX_VOCABULARY_BYTES))
    else:
        path = PurePosixPath(request.vocabulary_text or "")
        tokens = vocabulary_of_text(folder.read(path, MAX_TEXT_BYTES))
        if len(tokens) + 1 == spec.vocabulary_size:
            raise BadCheckpoint(
                f"the text has {len(tokens)} different characters, but the weights are made for "
                f"{spec.vocabulary_size}: if the model looked characters up with StringLookup, "
                'give `vocabulary` as a JSON list that begins with "[UNK]"'
            )
    tokenizer = Tokenizer(tokens, assumptions.unknown_character)
    check_vocabulary_fits(spec, tokenizer)
    return tokenizer
