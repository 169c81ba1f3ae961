"""The import as its caller sees it: run in a child process, checked and stored as a bundle."""

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pydantic import ValidationError
from safetensors.numpy import load as load_safetensors

from service.errors import BadCheckpoint, CarouselError, Validation
from service.models.bundle import (
    MANIFEST,
    TOKENIZER_FILES,
    VOCABULARY,
    WEIGHTS,
    Bundle,
    BundleMetadata,
    Manifest,
    build_files,
    check_vocabulary_fits,
)
from service.models.importing.folder import ImportFolder
from service.models.importing.request import (
    CHILD_ARGUMENT,
    ImportLimits,
    ImportReport,
    ImportRequest,
)
from service.models.spec import ModelRef, ModelSpec, Weights
from service.models.store import IMPORTING, ModelStore
from service.models.tokenizers import read_tokenizer
from service.models.tokenizers.tokenizer import Tokenizer
from service.sandbox import SandboxChildren, SandboxError, run_sandboxed
from service.scratch_folder import scratch_folder, store_errors

_Model = tuple[ModelSpec, Weights, Tokenizer]
_NO_PLUGINS = {"HDF5_PLUGIN_PATH": "", "HDF5_PLUGIN_PRELOAD": "::"}


@dataclass(frozen=True, slots=True)
class Importer:
    """Imports checkpoints under `folder` into `store`. Blocks; safe from any thread."""

    folder: Path
    store: ModelStore
    limits: ImportLimits = field(default_factory=ImportLimits)
    child: str = "service.models.importing.run_import"  # the module that the child runs
    children: SandboxChildren | None = None

    def check(self, request: ImportRequest) -> None:
        """Raise Validation if the request is invalid, or one of its files is not there."""
        request.check()
        with ImportFolder(self.folder, self.limits.file_bytes) as files:
            request.check_files(files)

    def run(self, request: ImportRequest) -> Bundle:
        """Import a checkpoint as a bundle.

        Raises Validation, BadCheckpoint, TooLarge; StoreFull and StoreUnavailable where the folder
        of models is full, or may not be written.
        """
        self.check(request)
        with store_errors("the model store"):
            return self._run(request)

    def _run(self, request: ImportRequest) -> Bundle:
        self.store.folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(self.store.folder, IMPORTING) as output:
            report = self._run_child(request, output)
            with ImportFolder(output, self.limits.file_bytes) as written:
                model = _read_written(report, written)
        return self._store(request, report.metadata, model)

    def _run_child(self, request: ImportRequest, output: Path) -> ImportReport:
        """Return the report of the child, which writes weights and vocabulary to `output`."""
        argument = CHILD_ARGUMENT.dump_python(
            (request, self.folder.resolve(), self.limits), mode="json"
        )
        try:
            answer = run_sandboxed(
                self.child,
                argument,
                output.resolve(),
                self.limits,
                "the import",
                _NO_PLUGINS,
                self.children,
            )
            return ImportReport.model_validate(answer)
        except SandboxError as error:
            if error.signal != signal.SIGPROF:
                raise BadCheckpoint(str(error)) from error
            raise BadCheckpoint(
                f"reading the files took more than {self.limits.read_cpu_s} seconds of CPU time; "
                "the checkpoint is damaged, or far larger than what is served"
            ) from error
        except ValidationError as error:
            raise BadCheckpoint("the import ended without a report that can be read") from error

    def _store(self, request: ImportRequest, metadata: BundleMetadata, model: _Model) -> Bundle:
        while True:
            ref = ModelRef(request.name, request.version or self.store.next_version(request.name))
            files = build_files(ref, *model, metadata)
            try:
                self.store.write(ref, files)
            except Validation:
                if request.version is not None:
                    raise
                continue  # another import took this version meanwhile
            return Bundle(*model, Manifest.model_validate_json(files[MANIFEST]))


def _read_written(report: ImportReport, written: ImportFolder) -> _Model:
    """Read and check the child's files as untrusted: the child has read untrusted files."""
    try:
        spec = ModelSpec.from_json(report.architecture)
        content = written.read(PurePosixPath(WEIGHTS), written.max_file_bytes)
        weights = Weights(spec, load_safetensors(content))
        tokens = json.loads(written.read(PurePosixPath(VOCABULARY), written.max_file_bytes))
        others = {
            name: written.read(PurePosixPath(name), written.max_file_bytes)
            for name in report.files
            if name in TOKENIZER_FILES
        }
        tokenizer = read_tokenizer(tokens, report.unknown_character, report.tokenizer, others)
    except CarouselError:
        raise
    except Exception as error:
        raise BadCheckpoint(f"the import wrote what cannot be read: {error}"[:500]) from error
    check_vocabulary_fits(spec, tokenizer)
    return spec, weights, tokenizer
