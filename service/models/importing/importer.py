"""The caller's side of an import: starts the child, judges how it ended, publishes the bundle."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pydantic import ValidationError
from safetensors.numpy import load as load_safetensors

import service
from service.errors import BadCheckpoint, CarouselError, TooLarge, Validation
from service.models.bundle import (
    MANIFEST,
    VOCABULARY,
    WEIGHTS,
    Bundle,
    BundleMetadata,
    Manifest,
    build_files,
    check_vocabulary_fits,
)
from service.models.importing.child import OUTCOME
from service.models.importing.folder import ImportFolder
from service.models.importing.request import (
    ORDERS,
    ImportLimits,
    ImportReport,
    ImportRequest,
    Order,
    Outcome,
    over_memory,
)
from service.models.spec import ModelRef, ModelSpec, Weights
from service.models.store import ModelStore
from service.models.tokenizer import Tokenizer

_CHILD = "service.models.importing.child"
_MAX_OUTCOME_BYTES = 1024 * 1024
_REFUSALS: dict[str, type[CarouselError]] = {
    error.code: error for error in (BadCheckpoint, TooLarge, Validation)
}


@dataclass(frozen=True, slots=True)
class Importer:
    """Imports what lies under `folder` into `store`. Blocks; safe from any thread."""

    folder: Path
    store: ModelStore
    limits: ImportLimits = field(default_factory=ImportLimits)

    def run(self, request: ImportRequest) -> Bundle:
        """Import a checkpoint and return the bundle that is now in the store.

        Raises:
            Validation: the request has no meaning, or names what is not in the folder.
            BadCheckpoint: the files cannot be served, or took more than the limits allow.
            TooLarge: a file is larger than its limit.

        """
        request.check()
        self.store.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".importing-", dir=self.store.folder) as name:
            output = Path(name)
            report = reported(self.start_child(request, output))
            with ImportFolder(output, self.limits.file_bytes) as made:
                spec, weights, tokenizer = _read_made(report, made)
        return self._publish(request, report, spec, weights, tokenizer)

    def start_child(self, request: ImportRequest, output: Path) -> Outcome:
        """Run the child to its end.

        Raises:
            BadCheckpoint: it was stopped by a limit, or it died.

        """
        order = Order(request, self.limits, self.folder.resolve(), output.resolve())
        try:
            done = subprocess.run(  # noqa: S603 - our own module, and no shell
                [sys.executable, "-m", _CHILD],
                input=ORDERS.dump_json(order),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=self.limits.wall_s,
                env=_environment(output),
                cwd=output,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BadCheckpoint(
                f"the import took longer than its {self.limits.wall_s} seconds and was stopped"
            ) from error
        with ImportFolder(output, self.limits.file_bytes) as made:
            if done.returncode != 0 or made.kind(PurePosixPath(OUTCOME)) != "file":
                raise BadCheckpoint(_how_it_died(done.returncode, self.limits))
            content = made.read(PurePosixPath(OUTCOME), _MAX_OUTCOME_BYTES)
        try:
            return Outcome.model_validate_json(content)
        except ValidationError as error:
            raise BadCheckpoint("the import ended without an outcome that can be read") from error

    def _publish(
        self,
        request: ImportRequest,
        report: ImportReport,
        spec: ModelSpec,
        weights: Weights,
        tokenizer: Tokenizer,
    ) -> Bundle:
        record = BundleMetadata(**report.model_dump(exclude={"architecture", "unknown_character"}))
        while True:
            ref = ModelRef(request.name, request.version or self.store.next_version(request.name))
            files = build_files(ref, spec, weights, tokenizer, record)
            try:
                self.store.write(ref, files)
            except Validation:
                if request.version is not None:
                    raise
                continue  # another import took this version meanwhile
            manifest = Manifest.model_validate_json(files[MANIFEST])
            return Bundle(spec, weights, tokenizer, manifest)


def reported(outcome: Outcome) -> ImportReport:
    """The report, or the refusal raised."""
    if outcome.report is not None:
        return outcome.report
    raise _REFUSALS.get(outcome.code, BadCheckpoint)(outcome.sentence)


def _read_made(report: ImportReport, made: ImportFolder) -> tuple[ModelSpec, Weights, Tokenizer]:
    """What the child wrote, checked as if it came from a stranger: the child has read strangers."""
    try:
        spec = ModelSpec.from_json(report.architecture)
        content = made.read(PurePosixPath(WEIGHTS), made.max_file_bytes)
        weights = Weights(spec, load_safetensors(content))
        tokens = json.loads(made.read(PurePosixPath(VOCABULARY), made.max_file_bytes))
        tokenizer = Tokenizer(tokens, report.unknown_character)
    except CarouselError:
        raise
    except Exception as error:
        raise BadCheckpoint(f"the import wrote what cannot be read: {error}"[:500]) from error
    check_vocabulary_fits(spec, tokenizer)
    return spec, weights, tokenizer


def _how_it_died(returncode: int, limits: ImportLimits) -> str:
    if returncode == -signal.SIGPROF:
        return (
            f"reading the files took more than {limits.read_cpu_s} seconds of processor time; "
            "the checkpoint is damaged, or far larger than what is served"
        )
    if returncode == -signal.SIGXCPU:
        return f"the import took more than its {limits.cpu_s} seconds of processor time"
    if returncode == -signal.SIGKILL:
        return f"the import was killed; {over_memory(limits.memory_bytes)}"
    if returncode < 0:
        return f"the file crashed the process that read it ({signal.Signals(-returncode).name})"
    return (
        f"the process that reads checkpoints ended with status {returncode}; it may need more than "
        f"its {limits.memory_bytes} bytes of memory"
    )


def _environment(output: Path) -> dict[str, str]:
    """Nothing of the server's own but where compiled code is kept; no plug-ins for HDF5."""
    compiled = {name: os.environ[name] for name in ("NUMBA_CACHE_DIR",) if name in os.environ}
    return compiled | {
        "PYTHONPATH": str(Path(str(service.__file__)).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(output),
        "HDF5_PLUGIN_PATH": "",
        "HDF5_PLUGIN_PRELOAD": "::",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
    }
