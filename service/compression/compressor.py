"""Compression and decompression of a file by a program, frame by frame, in constant memory."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import numpy as np

from service.compression.container import (
    FRAME_BYTES,
    LANES,
    CompressionHeader,
    FrameReader,
    FrameWriter,
)
from service.compression.lanes import Lanes
from service.compression.symbols import SymbolTable, character_start
from service.models.step import StepProgram
from service.models.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Sizes:
    """What was compressed or decompressed."""

    text_bytes: int
    characters: int  # bytes that begin one in UTF-8
    compressed_bytes: int

    @property
    def bits_per_character(self) -> float | None:
        """Bits of the compressed file for each character of the text; None of an empty one."""
        return 8 * self.compressed_bytes / self.characters if self.characters else None


Tell = Callable[[int], object]
"""Is called with the bytes of text that are done."""


@dataclass(frozen=True, slots=True)
class Compressor:
    """Compresses files by one model; each call has a batch of its own."""

    program: StepProgram
    tokenizer: Tokenizer
    threads: int = 1
    lane_bytes: int = 8_192
    """A shorter text has fewer lanes, since each begins without knowing what was before."""

    def compress(
        self,
        text: BinaryIO,
        out: BinaryIO,
        header: CompressionHeader,
        tell: Tell = lambda _: None,
    ) -> Sizes:
        """Write `text` to `out` compressed. Raises Validation where the logits are no numbers."""
        lanes, writer = self._lanes(), FrameWriter(out, header)
        size = characters = 0
        rest = b""
        while data := rest + text.read(FRAME_BYTES - len(rest)):
            end = character_start(data, len(data) - 1) if len(data) == FRAME_BYTES else len(data)
            data, rest = data[:end], data[end:]
            parts, before = parts_of(data, self.lane_bytes), lanes.save()
            codes = lanes.write(parts)
            if not writer.add(data, [len(part) for part in parts], codes):
                lanes.restore(before)
            size += len(data)
            characters += _count_characters(data)
            tell(size)
        writer.end()
        return Sizes(size, characters, writer.written_bytes)

    def decompress(self, reader: FrameReader, out: BinaryIO, tell: Tell = lambda _: None) -> int:
        """Write the text of a compressed file; return its size in bytes.

        Raises Validation where the file or the arithmetic is not that of the compression: what has
        been written then is not to be used.
        """
        lanes, size = self._lanes(), 0
        for frame in reader.frames():
            codes = frame.codes
            text = b"".join(lanes.read(frame.sizes, codes)) if codes else frame.stored
            reader.take(frame, text)
            out.write(text)
            size += len(text)
            tell(size)
        return size

    def _lanes(self) -> Lanes:
        return Lanes(self.program, SymbolTable(self.tokenizer), LANES, self.threads)


def parts_of(data: bytes, lane_bytes: int) -> list[bytes]:
    """Cut the text of a frame into parts for its lanes, between characters."""
    n = max(1, min(LANES, len(data) // lane_bytes))
    cuts = [0, *(character_start(data, i * len(data) // n) for i in range(1, n)), len(data)]
    return [data[first:last] for first, last in pairwise(cuts)]


def _count_characters(data: bytes) -> int:
    return int(np.count_nonzero((np.frombuffer(data, np.uint8) & 0xC0) != 0x80))
