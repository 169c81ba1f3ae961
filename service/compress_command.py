"""`carousel compress` and `decompress`: a file by a stored model, without a server."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from llvmlite import binding

from service.compression.compressor import Compressor, Sizes, Tell
from service.compression.container import CompressionHeader, FrameReader
from service.compression.lanes import probe
from service.errors import Validation
from service.models.bundle import Bundle, Precision, WantedPrecision
from service.models.compile import Int8Kernel, compile_program, own_instructions
from service.models.kernel_choice import KernelChoices
from service.models.resolve import resolve_stored
from service.models.spec import ModelRef
from service.models.step import KernelProgram, StepProgram
from service.models.store import ModelStore
from service.settings import Settings

SUFFIX = ".crsl"


@dataclass(frozen=True, slots=True)
class FileCompressor:
    """Compresses and decompresses files by the models of a store. Raises Validation, OSError."""

    model_store: Path
    threads: int

    def compress(
        self, source: Path, out: Path, model: str, precision: WantedPrecision, tell: Tell
    ) -> tuple[Sizes, CompressionHeader]:
        """Compress a file by a stored model, in the precision that it is served in for `auto`.

        Raises ModelNotFound, BadCheckpoint, and Validation if `out` exists.
        """
        bundle = ModelStore(self.model_store).read(ModelRef.parse(model))
        wanted = bundle.manifest.precision if precision == "auto" else Precision(precision)
        settings = Settings.read()
        choices = KernelChoices(self.model_store, settings.int8_kernel, settings.int4_weights)
        parts = bundle.spec, bundle.weights, wanted
        kernel = choices.choose(*parts, self.threads)
        bits = choices.weight_bits(*parts, kernel, bundle.tokenizer.special_ids)
        program = compile_program(
            *parts, self.threads, spins=False, kernel=kernel, weight_bits=bits
        )
        header = CompressionHeader(
            model=model,
            digest=bundle.manifest.digest,
            precision=wanted,
            kernel=kernel_of(program),
            weight_bits=bits,
            computed_by=_words_of(program, bits),
            probe=probe(program),
        )
        compressor = Compressor(program, bundle.tokenizer, self.threads)
        with source.open("rb") as text, _new_file(out) as file:
            return compressor.compress(text, file, header, tell), header

    def decompress(self, source: Path, out: Path, model: str | None, tell: Tell) -> int:
        """Decompress a file; return the size of its text. `out` is there when all of it is right.

        Raises ModelNotFound if the model is not stored, and Validation if `out` exists, if the file
        is damaged or another model's, or if this machine computes other bits.
        """
        with source.open("rb") as file:
            reader = FrameReader(file)
            header = reader.header
            bundle = self._model_of(header, model)
            program = self._program_of(header, bundle)
            compressor = Compressor(program, bundle.tokenizer, self.threads)
            with _new_file(out) as text:
                return compressor.decompress(reader, text, tell)

    def _model_of(self, header: CompressionHeader, model: str | None) -> Bundle:
        """Return the stored model of the header's digest, under whichever name."""
        store = ModelStore(self.model_store)
        if model is not None:
            bundle = store.read(resolve_stored(store, model))
            if bundle.manifest.digest != header.digest:
                raise Validation(
                    f"the file was compressed by {_model_words(header)}, and {bundle.ref} is "
                    f"another model ({bundle.manifest.digest[:12]}…); leave --model out, or import "
                    "that model"
                )
            return bundle
        for ref in store.refs():
            manifest = store.manifest(ref)
            if manifest is not None and manifest.digest == header.digest:
                return store.read(ref)
        raise Validation(
            f"the file was compressed by {_model_words(header)}, which is not stored in "
            f"{self.model_store}; import that model, or give its --model-store"
        )

    def _program_of(self, header: CompressionHeader, bundle: Bundle) -> StepProgram:
        """Compile the model as the compression had it. Raises Validation where that fails."""
        try:
            precision, kernel = Precision(header.precision), Int8Kernel(header.kernel)
        except ValueError as error:
            raise Validation(f"the file cannot be decompressed: {error}") from error
        bits: Literal[4, 8] = 4 if header.weight_bits == 4 else 8
        program = compile_program(
            *(bundle.spec, bundle.weights, precision),
            self.threads,
            spins=False,
            kernel=kernel,
            weight_bits=bits,
        )
        if kernel_of(program) == header.kernel and probe(program) == header.probe:
            return program
        raise Validation(
            f"the file was compressed with {header.computed_by}, and this machine computes other "
            f"bits with {_words_of(program, bits)}; decompress it on a machine like the first"
        )


def default_output(source: Path, *, is_compressed: bool) -> Path:
    """Return the path of the output beside its source. Raises Validation if it has none."""
    if not is_compressed:
        return source.with_name(source.name + SUFFIX)
    if source.suffix != SUFFIX:
        raise Validation(f"{source} does not end in {SUFFIX}; name the text with --output")
    return source.with_suffix("")


def kernel_of(program: StepProgram) -> Int8Kernel:
    """Return which kernel computes a program."""
    return Int8Kernel.OWN if isinstance(program, KernelProgram) else Int8Kernel.ONNX_RUNTIME


def _words_of(program: StepProgram, weight_bits: int) -> str:
    from service.models.kernel_choice import onnx_version  # noqa: PLC0415

    processor = f"{binding.get_host_cpu_name()} ({platform.machine()})"
    if kernel_of(program) is Int8Kernel.OWN:
        return f"the own kernel, {weight_bits} bits, {own_instructions()}, on {processor}"
    return f"ONNX Runtime {onnx_version()} on {processor}"


def _model_words(header: CompressionHeader) -> str:
    return f"{header.model} ({header.digest[:12]}…)"


def incoming_path(out: Path) -> Path:
    """Return the path of an output of this process while it is written."""
    return out.with_name(f".{out.name}.{os.getpid()}")


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that gets its name at the end, when all of it is written."""
    if path.exists():
        raise Validation(f"{path} exists; delete it, or name another file with --output")
    incoming = incoming_path(path)
    try:
        with incoming.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        incoming.rename(path)
    finally:
        incoming.unlink(missing_ok=True)
