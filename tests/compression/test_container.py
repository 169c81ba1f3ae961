"""The file format without a model: what is damaged, cut, longer or in another order is refused."""

import io
import struct
from dataclasses import replace

import pytest

from service.compression.container import (
    FRAME_BYTES,
    MAGIC,
    CompressionHeader,
    Frame,
    FrameReader,
    FrameWriter,
)
from service.errors import Validation

HEADER = CompressionHeader("demo@1", "d" * 64, "int8", "own", 8, "a test", "p" * 32)
TEXTS = [b"one two three four", b"five", b"six seven eight"]


def file_of(texts=TEXTS, header=HEADER) -> bytes:
    """Its code is the text without its last bytes: the format knows no model."""
    out = io.BytesIO()
    writer = FrameWriter(out, header)
    for text in texts:
        writer.add(text, [len(text)], [text[:-10]] if len(text) > 10 else [text])
    writer.end()
    assert writer.written_bytes == len(out.getvalue())
    return out.getvalue()


def texts_of(content: bytes, texts=TEXTS) -> list[Frame]:
    reader, found = FrameReader(io.BytesIO(content)), []
    for frame, text in zip(reader.frames(), [*texts, b""], strict=False):
        reader.take(frame, frame.stored or text)
        found.append(frame)
    return found


def test_frames_come_back():
    first, second, third = texts_of(file_of())
    assert (first.size, first.sizes, first.codes) == (18, (18,), (b"one two ",))
    assert (second.stored, second.codes) == (b"five", ())
    assert third.codes == (b"six s",)


def test_an_empty_file_has_no_frames():
    assert texts_of(file_of([]), []) == []


def test_each_flipped_bit_is_noticed():
    content = file_of()
    for place in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            with pytest.raises(Validation):
                texts_of(bytes(damaged))


def test_a_file_that_ends_too_early_is_noticed():
    content = file_of()
    for size in range(len(content)):
        with pytest.raises(Validation):
            texts_of(content[:size])


def test_what_follows_the_end_is_noticed():
    with pytest.raises(Validation, match="something follows its end"):
        texts_of(file_of() + b"\0")
    with pytest.raises(Validation, match="something follows its end"):
        texts_of(file_of() + file_of())


def test_frames_of_another_order_are_noticed():
    """Each checksum is one of all that is before it."""
    content, other = file_of([b"five", b"four"]), file_of([b"four", b"five"])
    frame = len(file_of([b"five"])) - len(file_of([]))
    start = len(file_of([])) - (struct.calcsize("<BHIII") + 8 + 32 + 4)
    swapped = (
        content[:start]
        + content[start + frame : start + 2 * frame]
        + content[start : start + frame]
        + content[start + 2 * frame :]
    )
    assert swapped != other
    with pytest.raises(Validation, match="a checksum is wrong"):
        texts_of(swapped)


def test_a_text_that_is_not_the_compressed_one_is_refused():
    reader = FrameReader(io.BytesIO(file_of()))
    frame = next(reader.frames())
    with pytest.raises(Validation, match="computes other bits than a test; decompress it there"):
        reader.take(frame, b"one two three fouR")


def test_the_end_holds_the_whole_text():
    """A frame that was read and not taken, or taken twice, is no text of the file."""
    reader = FrameReader(io.BytesIO(file_of()))
    with pytest.raises(Validation, match="not the one that its end describes"):
        list(reader.frames())


def test_another_file_is_refused():
    with pytest.raises(Validation, match="not one that `carousel compress` has written"):
        FrameReader(io.BytesIO(b"PK\x03\x04" + bytes(100)))
    with pytest.raises(Validation, match="not one that"):
        FrameReader(io.BytesIO(b""))


def test_another_format_is_refused():
    content = file_of(header=replace(HEADER, format=2))
    with pytest.raises(Validation, match="has format 2, and this version of Carousel reads 1"):
        FrameReader(io.BytesIO(content))


def test_a_header_of_other_kinds_is_refused():
    with pytest.raises(Validation, match="its header cannot be read"):
        FrameReader(io.BytesIO(file_of(header=replace(HEADER, model=7))))


def test_sizes_beyond_the_limits_take_no_memory():
    """A damaged size is refused before so much is read."""
    content = bytearray(file_of())
    content[len(MAGIC) : len(MAGIC) + 4] = struct.pack("<I", 2**31)
    with pytest.raises(Validation, match="its header is too long"):
        FrameReader(io.BytesIO(bytes(content)))
    content = bytearray(file_of())
    place = content.index(struct.pack("<BHI", 1, 1, 18)) + 3
    content[place : place + 4] = struct.pack("<I", FRAME_BYTES + 1)
    with pytest.raises(Validation, match="beyond the limits"):
        texts_of(bytes(content))
