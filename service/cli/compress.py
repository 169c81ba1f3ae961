"""The subcommands `compress` and `decompress`: a file by a stored model, without a server."""

import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from service.cli.options import Model, Store

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="The file to write; it may not exist.")
]
Threads = Annotated[int | None, typer.Option(min=1, max=64, help="Default: one for each core.")]

_PROGRESS_S = 0.5


def compress(
    file: Annotated[Path, typer.Argument(help="Any file.", exists=True, dir_okay=False)],
    model: Model = "default",
    output: Output = None,
    precision: Annotated[
        Literal["auto", "float32", "int8"], typer.Option(help="auto: as the model is served.")
    ] = "auto",
    threads: Threads = None,
    model_store: Store = Path("model_store"),
) -> None:
    """Compress a file by a model's own probabilities, without a server; exact to the bit.

    The shorter the better the model predicts the text. `decompress` needs the same model and a
    processor that computes the same bits, with any number of threads; else it refuses.
    """
    from service.cli.leave import leave_on_interrupt
    from service.cli.models import stored_name
    from service.compress_command import FileCompressor, default_output, incoming_path

    name, out = stored_name(model_store, model), output or default_output(file, is_compressed=False)
    leave_on_interrupt(lambda: incoming_path(out).unlink(missing_ok=True))
    size, began_s = file.stat().st_size, time.monotonic()
    compressor = FileCompressor(model_store, threads or _cores())
    sizes, header = compressor.compress(file, out, name, precision, _Progress(size).tell)
    bits = sizes.bits_per_character
    per_character = "" if bits is None else f", {bits:.4f} bits per character"
    print(
        f"{out}: {sizes.text_bytes:,} bytes to {sizes.compressed_bytes:,}{per_character}, in "
        f"{time.monotonic() - began_s:.1f} s by {name} in {header.precision}"
    )


def decompress(
    file: Annotated[
        Path, typer.Argument(help="What `compress` has written.", exists=True, dir_okay=False)
    ],
    model: Annotated[
        str | None, typer.Option(help="Default: the stored model that compressed it.")
    ] = None,
    output: Output = None,
    threads: Threads = None,
    model_store: Store = Path("model_store"),
) -> None:
    """Decompress a file that `compress` has written; a wrong text is never written.

    A damaged file, another model, and a machine that computes other bits are refused.
    """
    from service.cli.leave import leave_on_interrupt
    from service.compress_command import FileCompressor, default_output, incoming_path

    out, began_s = output or default_output(file, is_compressed=True), time.monotonic()
    leave_on_interrupt(lambda: incoming_path(out).unlink(missing_ok=True))
    compressor = FileCompressor(model_store, threads or _cores())
    size = compressor.decompress(file, out, model, _Progress(None).tell)
    print(f"{out}: {size:,} bytes, in {time.monotonic() - began_s:.1f} s")


def _cores() -> int:
    from service.cgroup import machine_share

    return machine_share().cores


class _Progress:
    """Tells on a terminal's standard error how far a file is."""

    def __init__(self, size: int | None) -> None:
        self._size, self._told_s = size, time.monotonic()

    def tell(self, done: int) -> None:
        """Write a line if the last one is old enough."""
        if not sys.stderr.isatty() or time.monotonic() - self._told_s < _PROGRESS_S:
            return
        self._told_s = time.monotonic()
        share = f" of {self._size:,}" if self._size else ""
        sys.stderr.write(f"\r{done:,}{share} bytes\x1b[K\r")
        sys.stderr.flush()
