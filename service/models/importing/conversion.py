"""The whole of an import, inside the child: files in, files and a report out."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from service.errors import BadCheckpoint
from service.models.bundle import Source, check_vocabulary_fits, content_files
from service.models.importing.architecture import read_architecture
from service.models.importing.assumptions import Assumptions
from service.models.importing.convert import convert, match_layers
from service.models.importing.folder import ImportFolder
from service.models.importing.inference import infer_architecture
from service.models.importing.recognise import read_checkpoint
from service.models.importing.request import ImportRequest, Report
from service.models.importing.stored import Checkpoint, StoredLayer
from service.models.parity import measure
from service.models.spec import ModelSpec
from service.models.tokenizer import Tokenizer, read_vocabulary, vocabulary_of_text

MAX_VOCABULARY_BYTES = 8 * 1024 * 1024
MAX_TEXT_BYTES = 256 * 1024 * 1024


def import_model(
    request: ImportRequest, folder: ImportFolder
) -> tuple[Report, Mapping[str, bytes]]:
    """Read, convert and measure a checkpoint: what was found, and the bundle's files.

    Raises:
        BadCheckpoint: the files cannot be served; the sentence says why.
        Validation: the request does not fit the files.
        TooLarge: a file is larger than its limit.

    """
    checkpoint = read_checkpoint(folder, PurePosixPath(request.source))
    assumptions = Assumptions(request.assume, checkpoint.keras_version)
    spec, layers = architecture_of(checkpoint, assumptions)
    tokenizer = _tokenizer(request, folder, spec, assumptions)
    weights = convert(spec, layers, assumptions)
    verdict = measure(spec, weights, request.precision, tokenizer.special_ids)
    report = Report(
        architecture=spec.to_json(),
        precision=verdict.precision,
        precision_reason=verdict.reason,
        assumptions=tuple(assumptions.sentences),
        unknown_character=tokenizer.unknown,
        source=Source(format=checkpoint.format, files=folder.digests),
        parity=verdict.parity,
    )
    return report, content_files(weights, tokenizer)


def architecture_of(
    checkpoint: Checkpoint, assumptions: Assumptions
) -> tuple[ModelSpec, tuple[StoredLayer, ...]]:
    """The spec, from the config where there is one, and the stored layers in its order."""
    for note in checkpoint.notes:
        assumptions.note(note)
    if checkpoint.config is None:
        return infer_architecture(checkpoint.layers, assumptions)
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
