"""The self-test of the arithmetic: a text is compressed and decompressed by programs of a model."""

from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np

from service.compression.compressor import Compressor
from service.compression.container import CompressionHeader, FrameReader
from service.compression.lanes import probe
from service.errors import Validation
from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.compile import Int8Kernel, compile_program
from service.models.registry import DEFAULT_ALIAS
from service.models.resolve import read_record
from service.models.spec import ModelSpec, Weights
from service.models.store import ModelStore
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.tokenizer import Tokenizer

_TEXT_BYTES, _LANE_BYTES = 3_000, 300
_ODD = "é中\x00".encode() + b"\xff"
_FLIPPED = 20  # bits, spread over the file

_Kind = tuple[Precision, Int8Kernel]
_FLOAT32: _Kind = (Precision.FLOAT32, Int8Kernel.ONNX_RUNTIME)
KINDS: tuple[_Kind, ...] = (_FLOAT32, *((Precision.INT8, kernel) for kernel in Int8Kernel))


def check_arithmetic() -> Iterator[str]:
    """Yield in words what came back the same, for each kind of program of a small network.

    Raises Validation where a text does not.
    """
    tokenizer = CharacterTokenizer("\n abcdefghijklmnopqrstuvwxyz.,")
    spec = ModelSpec(len(tokenizer), 8, (LayerSpec("lstm", 40), LayerSpec("lstm", 33)))
    random = np.random.default_rng(7)
    arrays = {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in spec.weight_shapes.items()
    }
    yield from check_model(spec, Weights(spec, arrays), tokenizer)


def check_default_model(model_store: Path) -> Iterator[str]:
    """Yield the same of a store's default model, as it is served; nothing if there is none."""
    store = ModelStore(model_store)
    ref = read_record(store).aliases.get(DEFAULT_ALIAS)
    if ref is None:
        return
    bundle = store.read(ref)
    kind = bundle.manifest.precision, Int8Kernel.OWN
    for words in check_model(bundle.spec, bundle.weights, bundle.tokenizer, [kind]):
        yield f"{ref} in {words}"


def check_model(
    spec: ModelSpec, weights: Weights, tokenizer: Tokenizer, kinds: Iterable[_Kind] = KINDS
) -> Iterator[str]:
    """Yield in words what came back the same by each kind of program. Raises as above."""
    text = _text(tokenizer)
    for precision, kernel in kinds:
        one, two = (
            Compressor(
                compile_program(spec, weights, precision, threads, kernel=kernel),
                tokenizer,
                threads,
                _LANE_BYTES,
            )
            for threads in (1, 2)
        )
        words = f"{precision} by {type(one.program).__name__}"
        compressed = _compressed(one, text, precision, kernel)
        if _compressed(two, text, precision, kernel) != compressed:
            raise Validation(f"{words}: two threads compress a text to other bytes than one")
        if _decompressed(two, compressed) != text:
            raise Validation(f"{words}: a text did not come back from its compression")
        for place in range(0, len(compressed), max(1, len(compressed) // _FLIPPED)):
            _check_flipped(two, compressed, place, words)
        yield words


def _compressed(
    compressor: Compressor, text: bytes, precision: Precision, kernel: Int8Kernel
) -> bytes:
    out, bits = BytesIO(), probe(compressor.program)
    header = CompressionHeader("self-test", "", precision, kernel, 8, "this machine", bits)
    compressor.compress(BytesIO(text), out, header)
    return out.getvalue()


def _decompressed(compressor: Compressor, compressed: bytes) -> bytes:
    out, reader = BytesIO(), FrameReader(BytesIO(compressed))
    if reader.header.probe != probe(compressor.program):
        raise Validation("two threads compute other bits than one")
    compressor.decompress(reader, out)
    return out.getvalue()


def _check_flipped(compressor: Compressor, compressed: bytes, place: int, words: str) -> None:
    flipped = bytearray(compressed)
    flipped[place] ^= 1 << place % 8
    try:
        _decompressed(compressor, bytes(flipped))
    except Validation:
        return
    raise Validation(f"{words}: a flipped bit in byte {place} was not noticed")


def _text(tokenizer: Tokenizer) -> bytes:
    """Return the texts of tokens in an order that looks random, and some that no token has."""
    value, parts = 1, [_ODD]
    size = len(_ODD)
    while size < _TEXT_BYTES:
        value = (value * 1_103_515_245 + 12_345) % 2**31
        part = tokenizer.bytes_of((value >> 8) % len(tokenizer)) or _ODD
        parts.append(part)
        size += len(part)
    return b"".join(parts)
