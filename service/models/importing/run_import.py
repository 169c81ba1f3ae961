"""The import inside the child process: every way in which it can end is a report or an error."""

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from service.errors import BadCheckpoint, CarouselError, reason_of
from service.models.bundle import (
    BundleMetadata,
    Precision,
    Provenance,
    check_vocabulary_fits,
    content_files,
)
from service.models.compile import compile_program
from service.models.importing.assumptions import Assumptions
from service.models.importing.canonical_weights import convert
from service.models.importing.checkpoint import Checkpoint, JsonObject, StoredLayer
from service.models.importing.detect_format import read_checkpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.given_config import with_config
from service.models.importing.infer_spec import infer_spec
from service.models.importing.keras_config import read_architecture
from service.models.importing.match_layers import match_layers
from service.models.importing.readers.json_text import MAX_BYTES as MAX_JSON_BYTES
from service.models.importing.readers.json_text import read_json_object
from service.models.importing.reading import check_state_is_known
from service.models.importing.request import (
    CHILD_ARGUMENT,
    ImportLimits,
    ImportReport,
    ImportRequest,
)
from service.models.importing.text_layer import model_vocabulary
from service.models.importing.textgenrnn import textgenrnn_vocabulary
from service.models.importing.tokenizer_choice import choose_tokenizer
from service.models.importing.training_text import EXCERPT
from service.models.importing.vocabulary import Vocabulary, decode, read_vocabulary
from service.models.importing.vocabulary_check import check_vocabulary, vocabulary_of_text
from service.models.parity import measure
from service.models.spec import ModelSpec, Weights
from service.models.tokenizers import read_tokenizer
from service.models.tokenizers.round_trip import measure_round_trip
from service.models.tokenizers.special_tokens import UnknownPolicy
from service.models.tokenizers.tokenizer import Tokenizer

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
MAX_VOCABULARY_BYTES = 32 * 1024 * 1024
MAX_TEXT_BYTES = 256 * 1024 * 1024


def run(argument: object) -> object:
    """Import into the working folder: CHILD_ARGUMENT → ImportReport, both as JSON values."""
    request, folder, limits = CHILD_ARGUMENT.validate_python(argument)
    try:
        return import_into(Path.cwd(), request, folder, limits).model_dump(mode="json")
    except BadCheckpoint as error:
        raise _disk_error(error) or error from error


def _disk_error(error: BaseException | None) -> OSError | None:
    """Return the error of this machine's disk that is the cause of another one, if there is one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return error
        error = error.__cause__ or error.__context__
    return None


def import_into(
    output: Path, request: ImportRequest, folder: Path, limits: ImportLimits
) -> ImportReport:
    """Read, convert and measure a checkpoint; write weights and vocabulary to `output`.

    Raises BadCheckpoint, Validation, TooLarge and MemoryError only, whatever the files hold.
    """
    try:
        with ImportFolder(folder, limits.file_bytes) as files:
            with _killed_after(limits.read_cpu_s):
                checkpoint = read_checkpoint(files, PurePosixPath(request.source))
                assumptions = Assumptions(request.assume, checkpoint.keras_version)
                config = _read_config(request, files)
                checkpoint = with_config(checkpoint, config, assumptions)
                spec, layers = architecture_of(checkpoint, assumptions)
                weights = convert(spec, layers, assumptions)
                vocabulary, text = _read_tokens(request, files)
                vocabulary = model_vocabulary(
                    checkpoint, vocabulary, assumptions, has_text=text is not None
                )
                if vocabulary is not None:
                    vocabulary = textgenrnn_vocabulary(vocabulary, spec, config, assumptions)
            tokenizer, text_score = _tokenizer(vocabulary, text, spec, weights, assumptions)
            if checkpoint.config is None and "weights" in checkpoint.format:
                check_state_is_known(spec, tokenizer, assumptions)
            sample = _encoded(tokenizer, text)
            result = measure(
                spec, weights, request.precision, tokenizer.suppressed_ids, text=sample
            )
            metadata = BundleMetadata(
                precision=result.precision,
                precision_reason=result.reason,
                assumptions=tuple(assumptions.sentences),
                source=Provenance(format=checkpoint.format, files=files.digests),
                parity=result.parity,
                round_trip=measure_round_trip(tokenizer).sentence,
                text_score=text_score,
            )
        for name, content in content_files(weights, tokenizer).items():
            (output / name).write_bytes(content)
    except (CarouselError, MemoryError):
        raise
    except Exception as error:
        if "bad_alloc" in str(error) or "emory alloc" in str(error):
            raise MemoryError from error
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise BadCheckpoint(f"the checkpoint cannot be read: {reason}"[:500]) from error
    return ImportReport(
        architecture=spec.to_json(),
        unknown_character=tokenizer.unknown,
        tokenizer=dict(tokenizer.options),
        files=tuple(tokenizer.files),
        metadata=metadata,
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
    return architecture.spec, match_layers(architecture.sources, checkpoint.layers)


def _tokenizer(
    vocabulary: Vocabulary | None,
    text: str | None,
    spec: ModelSpec,
    weights: Weights,
    assumptions: Assumptions,
) -> tuple[Tokenizer, str]:
    """Return the tokenizer, and the record of its check by the training text, if there is one."""
    tokenizer = None
    if vocabulary is not None:
        tokenizer = choose_tokenizer(vocabulary, spec.vocabulary_size, assumptions, spec.window)
        check_vocabulary_fits(spec, tokenizer)
        if text is None:
            return tokenizer, ""
    if spec.window is not None and spec.window.keeps_first:  # each token of the text is predicted
        spec = replace(spec, window=replace(spec.window, keeps_first=False))
    program = compile_program(spec, weights, Precision.FLOAT32)
    if tokenizer is None:
        return vocabulary_of_text(text or "", spec, program, assumptions)
    return tokenizer, check_vocabulary(tokenizer, text or "", spec, program)


def _encoded(tokenizer: Tokenizer, text: str | None) -> list[int]:
    """Return the token ids of the beginning of the training text, without unknown ones."""
    if text is None:
        return []
    known = read_tokenizer(tokenizer.tokens, UnknownPolicy.SKIP, tokenizer.options, tokenizer.files)
    return known.encode(text[:EXCERPT])


def _read_config(request: ImportRequest, folder: ImportFolder) -> JsonObject | None:
    """Read the config that is given, if any. Raises BadCheckpoint if it is no JSON object."""
    if request.config is None:
        return None
    content = folder.read(PurePosixPath(request.config), MAX_JSON_BYTES)
    return read_json_object(content, "the config")


def _read_tokens(
    request: ImportRequest, folder: ImportFolder
) -> tuple[Vocabulary | None, str | None]:
    """Read the vocabulary's file and the training text, of those that are given."""
    vocabulary = text = None
    if request.vocabulary is not None:
        path = PurePosixPath(request.vocabulary)
        vocabulary = read_vocabulary(folder.read(path, MAX_VOCABULARY_BYTES))
    if request.vocabulary_text is not None:
        path = PurePosixPath(request.vocabulary_text)
        text = decode(folder.read(path, MAX_TEXT_BYTES), "the training text")
    return vocabulary, text


@contextmanager
def _killed_after(cpu_s: float) -> Iterator[None]:
    """End the process by SIGPROF, even inside a library, if the block takes more CPU time."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
