"""The format of a compressed file: a header, frames, and an end, each with a checksum.

    file    = magic, header, frame*, end
    header  = u32 size, JSON, u32 checksum
    frame   = u8 kind, u16 lanes, u32 bytes of text, u32 bytes of code, u32 checksum of the text,
              lanes * (u32 bytes of text, u32 bytes of code), code, u32 checksum
    end     = a frame of kind 0, whose code is u64 bytes of all texts, and their SHA-256

Numbers are little-endian. A checksum is the CRC-32 of the file's bytes before it, but for
checksums, so that a frame is not taken from another place or another file. Nothing may follow the
end.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, BinaryIO, Self

from service.errors import Validation

MAGIC = b"\x93carousel\r\n\x1a"
FORMAT = 1
LANES, FRAME_BYTES = 64, 1 << 20
"""The most lanes, and the most bytes of text of a frame."""

_MAX_HEADER_BYTES = 4_096
_MAX_CODE_BYTES = 8 * FRAME_BYTES + 16 * LANES
_END, _CODED, _STORED = 0, 1, 2
_FRAME, _LANE, _NUMBER, _SIZE = (struct.Struct(f) for f in ("<BHIII", "<II", "<I", "<Q"))

_NUMBERS = {"weight_bits", "format"}  # of a header; its other values are texts
_DAMAGED = "the compressed file is damaged: {}; get it again"


@dataclass(frozen=True, slots=True)
class CompressionHeader:
    """What computed the probabilities of a compressed file."""

    model: str  # name@version, of the store that compressed it
    digest: str
    precision: str
    kernel: str
    weight_bits: int
    computed_by: str  # in words
    probe: str  # of the logits' bits, see `lanes.probe`
    format: int = FORMAT

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Raises Validation if it is another format's, or damaged."""
        try:
            values: dict[str, Any] = json.loads(content)
            version = values["format"]
            if version == FORMAT:
                header = cls(**values)
                if all(type(v) is (int if k in _NUMBERS else str) for k, v in values.items()):
                    return header
                raise TypeError
        except (ValueError, KeyError, TypeError) as error:
            raise Validation(_DAMAGED.format("its header cannot be read")) from error
        raise Validation(
            f"the compressed file has format {version}, and this version of Carousel reads "
            f"{FORMAT}; decompress it with the version that compressed it"
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """A part of a text: the code of each lane, or with no lanes the text as it is."""

    size: int  # of the text, in bytes
    checksum: int  # of the text
    sizes: tuple[int, ...] = ()  # of the lanes' parts
    codes: tuple[bytes, ...] = ()
    stored: bytes = b""


class FrameWriter:
    """Writes a compressed file."""

    def __init__(self, out: BinaryIO, header: CompressionHeader) -> None:
        self._out, self._checksum = out, 0
        self._digest, self._size = sha256(), 0
        self.written_bytes = 0
        content = json.dumps(asdict(header), sort_keys=True).encode()
        assert len(content) <= _MAX_HEADER_BYTES
        self._write(MAGIC, _NUMBER.pack(len(content)), content)

    def add(self, text: bytes, sizes: Sequence[int], codes: Sequence[bytes]) -> bool:
        """Write a frame; where the code is not shorter than the text, it is the text.

        Returns whether it is the code.
        """
        self._digest.update(text)
        self._size += len(text)
        table = b"".join(
            _LANE.pack(size, len(code)) for size, code in zip(sizes, codes, strict=True)
        )
        code = b"".join(codes)
        is_coded = len(table) + len(code) < len(text)
        if not is_coded:
            sizes, table, code = (), b"", text
        kind = _CODED if is_coded else _STORED
        head = _FRAME.pack(kind, len(sizes), len(text), len(code), zlib.crc32(text))
        self._write(head, table, code)
        return is_coded

    def end(self) -> None:
        """Write the end."""
        code = _SIZE.pack(self._size) + self._digest.digest()
        self._write(_FRAME.pack(_END, 0, 0, len(code), 0), code)

    def _write(self, *parts: bytes) -> None:
        for part in parts:
            self._checksum = zlib.crc32(part, self._checksum)
            self._out.write(part)
        checksum = _NUMBER.pack(self._checksum)
        self._out.write(checksum)
        self.written_bytes += sum(map(len, parts)) + len(checksum)


class FrameReader:
    """Reads a compressed file. What it returns has been checked, but for the text of a code."""

    def __init__(self, file: BinaryIO) -> None:
        """Reads the header. Raises Validation as all of this class."""
        self._file, self._checksum = file, 0
        self._digest, self._size = sha256(), 0
        if file.read(len(MAGIC)) != MAGIC:
            raise Validation(
                "the file is not one that `carousel compress` has written, or its first bytes are "
                "damaged"
            )
        self._checksum = zlib.crc32(MAGIC)
        (size,) = _NUMBER.unpack(self._read(_NUMBER.size))
        if size > _MAX_HEADER_BYTES:
            raise Validation(_DAMAGED.format("its header is too long"))
        content = self._read(size)
        self._check()
        self.header = CompressionHeader.from_json(content)

    def frames(self) -> Iterator[Frame]:
        """Yield each frame. At the end, the texts given to `take` have to be those of the file."""
        while True:
            kind, lanes, size, code_size, checksum = _FRAME.unpack(self._read(_FRAME.size))
            is_known = kind in {_END, _CODED, _STORED}
            if not is_known or lanes > LANES or size > FRAME_BYTES or code_size > _MAX_CODE_BYTES:
                raise Validation(_DAMAGED.format("a frame has a size beyond the limits"))
            table = [_LANE.unpack(self._read(_LANE.size)) for _ in range(lanes)]
            code = self._read(code_size)
            self._check()
            if kind == _END:
                return self._end(code)
            sizes, code_sizes = [n for n, _ in table], [n for _, n in table]
            if kind == _STORED:
                yield Frame(size, checksum, stored=code)
                continue
            if not table or sum(sizes) != size or sum(code_sizes) != code_size:
                raise Validation(_DAMAGED.format("a frame's lanes have other sizes than the frame"))
            at, codes = 0, []
            for n in code_sizes:
                codes.append(code[at : at + n])
                at += n
            yield Frame(size, checksum, tuple(sizes), tuple(codes))

    def take(self, frame: Frame, text: bytes) -> None:
        """Take the text of a frame. Raises Validation if it is not the one that was compressed."""
        if len(text) != frame.size or zlib.crc32(text) != frame.checksum:
            raise Validation(
                "the text that was decompressed is not the one that was compressed: this machine "
                f"computes other bits than {self.header.computed_by}; decompress it there"
            )
        self._digest.update(text)
        self._size += len(text)

    def _end(self, code: bytes) -> None:
        if code != _SIZE.pack(self._size) + self._digest.digest():
            raise Validation(_DAMAGED.format("its text is not the one that its end describes"))
        if self._file.read(1):
            raise Validation(_DAMAGED.format("something follows its end"))

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise Validation(_DAMAGED.format("it ends too early"))
        self._checksum = zlib.crc32(data, self._checksum)
        return data

    def _check(self) -> None:
        """Read a checksum. It is not counted: the sum of bytes and their sum is a constant."""
        expected = self._checksum
        if _NUMBER.unpack(self._read(_NUMBER.size)) != (expected,):
            raise Validation(_DAMAGED.format("a checksum is wrong"))
        self._checksum = expected
