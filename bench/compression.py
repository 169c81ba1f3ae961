"""Compression by a model beside xz and zstd: bits per character, and characters per second.

python -m bench.compression MODEL_STORE MODEL TEXT
"""

import io
import json
import lzma
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from service.compression.compressor import Compressor
from service.compression.container import CompressionHeader, FrameReader
from service.models.bundle import Precision
from service.models.compile import Int8Kernel, compile_program
from service.models.resolve import resolve_stored
from service.models.store import ModelStore

HEADER = CompressionHeader("", "", "", "", 8, "", "0" * 32)
KINDS = [
    (Precision.INT8, Int8Kernel.OWN),
    (Precision.INT8, Int8Kernel.ONNX_RUNTIME),
    (Precision.FLOAT32, Int8Kernel.ONNX_RUNTIME),
]
ONE_LANE_BYTES = 20_000


def others(text: bytes) -> dict[str, float]:
    """Bits per byte of a text of one-byte characters by programs that learn from it alone."""
    found = {"xz -9e": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))}
    if shutil.which("zstd"):
        found["zstd -19"] = len(
            subprocess.run(
                ["zstd", "-19", "-c"], input=text, capture_output=True, check=True
            ).stdout
        )
    return {name: round(8 * size / len(text), 4) for name, size in found.items()}


def row(compressor: Compressor, text: bytes) -> dict[str, Any]:
    """Compress and decompress a text once; what it took."""
    out, back = io.BytesIO(), io.BytesIO()
    began = time.perf_counter(), time.process_time()
    sizes = compressor.compress(io.BytesIO(text), out, HEADER)
    half = time.perf_counter(), time.process_time()
    compressor.decompress(FrameReader(io.BytesIO(out.getvalue())), back)
    end = time.perf_counter(), time.process_time()
    assert back.getvalue() == text
    per_s = [round(len(text) / (b[0] - a[0])) for a, b in ((began, half), (half, end))]
    cpu_us = [round(1e6 * (b[1] - a[1]) / len(text), 2) for a, b in ((began, half), (half, end))]
    return {"bits": sizes.bits_per_character, "per_s": per_s, "cpu_us": cpu_us}


def main() -> None:
    """Print a row for each kind of program, number of threads, and for one lane alone."""
    folder, name, path = sys.argv[1:]
    store, text = ModelStore(Path(folder)), Path(path).read_bytes()
    bundle = store.read(resolve_stored(store, name))
    print(json.dumps({"text": path, "bytes": len(text)} | others(text)))
    for precision, kernel in KINDS:
        for threads, lane_bytes in ((1, 1 << 30), (1, 8_192), (2, 8_192)):
            program = compile_program(
                bundle.spec, bundle.weights, precision, threads, kernel=kernel
            )
            compressor = Compressor(program, bundle.tokenizer, threads, lane_bytes)
            row(compressor, text[:500])  # compiles the kernels
            given = text[:ONE_LANE_BYTES] if lane_bytes > 8_192 else text
            lanes = max(1, min(64, len(given) // lane_bytes))
            kind = {"by": f"{precision}, {kernel}", "threads": threads, "lanes": lanes}
            print(json.dumps(kind | row(compressor, given)), flush=True)


if __name__ == "__main__":
    main()
