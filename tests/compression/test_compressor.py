"""Files by real models: what comes back is what was compressed, on every path of the arithmetic."""

import io
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from service.compression.compressor import Compressor
from service.compression.container import FRAME_BYTES, CompressionHeader, FrameReader
from service.compression.lanes import Lanes, probe
from service.compression.self_test import check_arithmetic, check_default_model
from service.compression.symbols import SymbolTable
from service.errors import Validation
from service.models.bundle import Bundle, Precision
from service.models.cell import LayerSpec
from service.models.compile import Int8Kernel, compile_program, has_vnni
from service.models.spec import ModelSpec, Weights
from service.models.tokenizers.characters import CharacterTokenizer
from tests.models.networks import SPECS, VOCABULARY_SIZE, WINDOWED, random_weights
from tests.process import ROOT

BUNDLE = Bundle.read(ROOT / "model_store" / "demo" / "1")
HEADER = CompressionHeader("demo@1", "", "", "", 8, "a test", "")
KINDS = [
    (Precision.FLOAT32, Int8Kernel.OWN, 8),
    (Precision.INT8, Int8Kernel.OWN, 8),
    (Precision.INT8, Int8Kernel.ONNX_RUNTIME, 8),
    pytest.param(
        (Precision.INT8, Int8Kernel.OWN, 4),
        marks=pytest.mark.skipif(not has_vnni(), reason="needs VNNI"),
    ),
]
TINY_CHARACTERS = "abc \n"
TEXTS = (
    "", "a", "\n", "é", "中文测试", "🙂" * 40, "\x00", "\ufeffBOM", "a\r\nb\r", "\x85\u2028",
    "def f(x):\n    return x\n" * 30,
)  # fmt: skip


def compressor_of(kind, threads=1, lane_bytes=8_192) -> Compressor:
    precision, kernel, bits = kind
    program = compile_program(
        *(BUNDLE.spec, BUNDLE.weights, precision, threads), kernel=kernel, weight_bits=bits
    )
    return Compressor(program, BUNDLE.tokenizer, threads, lane_bytes)


def compressed(compressor: Compressor, data: bytes) -> bytes:
    out = io.BytesIO()
    compressor.compress(io.BytesIO(data), out, HEADER)
    return out.getvalue()


def decompressed(compressor: Compressor, content: bytes) -> bytes:
    out = io.BytesIO()
    compressor.decompress(FrameReader(io.BytesIO(content)), out)
    return out.getvalue()


def random_texts(n: int, seed: int = 0) -> list[bytes]:
    """Texts of every kind: of the model's characters, of others, of words, and no texts."""
    rng, words = random.Random(seed), Path(__file__).read_text().split()
    known = [BUNDLE.tokenizer.text_of(i) for i in range(len(BUNDLE.tokenizer))]
    others = [chr(i) for i in (0, 9, 0x85, 0xE9, 0x2028, 0x4E2D, 0xFFFD, 0x1F642)]

    def text() -> bytes:
        size = rng.choice([0, 1, 2, 10, 40, 120])
        kind = rng.randrange(4)
        if kind == 0:
            return rng.randbytes(size)
        if kind == 1:
            return " ".join(rng.choices(words, k=size // 5)).encode()
        alphabet = known if kind == 2 else known + others
        return "".join(rng.choices(alphabet, k=size)).encode()

    return [text() for _ in range(n)]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_come_back_with_another_number_of_threads(kind):
    one, two = compressor_of(kind), compressor_of(kind, threads=2)
    for data in [*map(str.encode, TEXTS), *random_texts(25)]:
        content = compressed(one, data)
        assert compressed(two, data) == content
        assert decompressed(two, content) == data
    assert decompressed(one, compressed(two, data)) == data


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_random_texts_come_back(kind):
    one, two = compressor_of(kind), compressor_of(kind, threads=2)
    for i, data in enumerate(random_texts(1_000, seed=1)):
        writer, reader = (one, two) if i % 2 else (two, one)
        assert decompressed(reader, compressed(writer, data)) == data


@pytest.mark.parametrize("kind", KINDS)
def test_many_lanes_of_unequal_parts_come_back(kind):
    """A lane that is at its end early keeps its state for its next part."""
    one, two = compressor_of(kind, 1, 16), compressor_of(kind, 2, 16)
    data = ("é" * 300 + "def main() -> None:\n" * 40 + "中" * 99).encode() + bytes(range(256))
    content = compressed(one, data)
    assert compressed(two, data) == content
    assert decompressed(two, content) == data


def test_a_lane_at_its_end_keeps_its_state_for_its_next_part():
    """Whatever other lanes do meanwhile: with two threads they are other ones."""
    first, second = [b"a", b"def f(x):\n" * 9, b"in", b"x = 1\n" * 5], [b"return " * 3] * 4
    codes = []
    for threads in (1, 2):
        program = compressor_of((Precision.INT8, Int8Kernel.OWN, 8)).program
        lanes = Lanes(program, SymbolTable(BUNDLE.tokenizer), 4, threads)
        lanes.write(first)
        codes.append(lanes.write(second))
    alone = Lanes(program, SymbolTable(BUNDLE.tokenizer), 1)
    alone.write(first[:1])
    assert codes[0] == codes[1]
    assert codes[0][:1] == alone.write(second[:1])


def small_compressor() -> Compressor:
    spec = ModelSpec(len(TINY_CHARACTERS), None, (LayerSpec("lstm", 8),))
    program = compile_program(spec, random_weights(spec), Precision.INT8)
    return Compressor(program, CharacterTokenizer(TINY_CHARACTERS), 2)


def test_lanes_go_on_from_frame_to_frame():
    """A second frame has fewer lanes, and the states of the first one's."""
    compressor = small_compressor()
    data = (b"abc cab bac\n" * (FRAME_BYTES // 11))[: FRAME_BYTES + 9_000] + "中".encode()
    assert decompressed(compressor, compressed(compressor, data)) == data


def test_every_bit_of_a_small_file_counts():
    compressor = compressor_of((Precision.INT8, Int8Kernel.OWN, 8))
    content = compressed(compressor, "def f(é): return 中\n".encode() * 3)
    for place in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            with pytest.raises(Validation):
                decompressed(compressor, bytes(damaged))


def test_another_arithmetic_is_noticed_by_the_text_at_the_latest():
    """Were the header's checks passed by: the checksum of the text is wrong."""
    data = b"Return the sum of a sequence of numbers.\n" * 20
    content = compressed(compressor_of((Precision.INT8, Int8Kernel.OWN, 8)), data)
    float32 = compressor_of((Precision.FLOAT32, Int8Kernel.OWN, 8))
    with pytest.raises(Validation, match=r"damaged|other bits than a test"):
        decompressed(float32, content)


def test_probes_tell_programs_from_each_other():
    programs = [compressor_of(kind).program for kind in KINDS[:3]]
    assert len({probe(program) for program in programs}) == 3
    again = compressor_of(KINDS[0], threads=2).program
    assert probe(again) == probe(programs[0])


def test_what_does_not_get_shorter_is_stored():
    compressor = compressor_of((Precision.FLOAT32, Int8Kernel.OWN, 8))
    noise = random.Random(1).randbytes(3_000)
    content = compressed(compressor, noise)
    assert len(noise) < len(content) < len(noise) + 700
    assert decompressed(compressor, content) == noise


def test_a_stored_frame_teaches_the_lanes_nothing():
    compressor = small_compressor()
    data = random.Random(1).randbytes(FRAME_BYTES) + b"abc cab bac\n" * 400
    content = compressed(compressor, data)
    assert decompressed(compressor, content) == data
    assert FRAME_BYTES < len(content) < FRAME_BYTES + 2_500


@pytest.mark.parametrize("name", ["peephole", "gru, reset before", "relu", "skip connections"])
def test_every_kind_of_network(name):
    check_network(SPECS[name])


@pytest.mark.parametrize("name", ["left, zeros, masked", "sliding", "bidirectional"])
def test_windowed_networks(name):
    check_network(WINDOWED[name])


def check_network(spec):
    tokenizer = CharacterTokenizer("abcdefghijklmno \n"[:VOCABULARY_SIZE])
    weights = random_weights(spec)
    data = ("bad cafe " * 20 + "é").encode()
    one, two = (
        Compressor(compile_program(spec, weights, Precision.FLOAT32, n), tokenizer, n, 50)
        for n in (1, 2)
    )
    assert decompressed(two, compressed(one, data)) == data


def test_logits_that_are_no_numbers_are_a_sentence():
    """Their sums are beyond float32, though every weight is within it."""
    spec = ModelSpec(3, None, (LayerSpec("lstm", 2),))
    arrays = {n: np.ones(s, np.float32) for n, s in spec.weight_shapes.items()}
    arrays["output.kernel"][:] = 3.3e38
    program = compile_program(spec, Weights(spec, arrays), Precision.FLOAT32)
    with pytest.raises(Validation, match="logits are no numbers"):
        compressed(Compressor(program, CharacterTokenizer("abc")), b"abcabc")


def test_memory_does_not_grow_with_the_file():
    spec = ModelSpec(3, None, (LayerSpec("lstm", 2),))
    program = compile_program(spec, random_weights(spec), Precision.INT8)
    compressor = Compressor(program, CharacterTokenizer("abc"), 2)

    def peak_bytes(frames: int) -> int:
        source, out = _Repeated(b"abcabbac", frames * FRAME_BYTES), io.BytesIO()
        tracemalloc.start()
        sizes = compressor.compress(source, out, HEADER)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sizes.text_bytes == frames * FRAME_BYTES
        return peak - len(out.getvalue())

    peak_bytes(1)
    assert peak_bytes(2) < 1.3 * peak_bytes(1)


class _Repeated(io.RawIOBase):
    """A stream of a text again and again, which is nowhere as a whole."""

    def __init__(self, text: bytes, size: int) -> None:
        self._text, self._left = text, size

    def read(self, size: int = -1) -> bytes:
        n = min(self._left, size)
        self._left -= n
        return (self._text * (n // len(self._text) + 1))[:n]


def test_the_self_test_of_the_doctor(tmp_path):
    assert len([*check_arithmetic(), *check_default_model(ROOT / "model_store")]) == 4
    assert [*check_default_model(tmp_path)] == []
