"""Checksums, tables and folders against their specifications."""

from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadCheckpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.readers.crc32c import crc32c
from service.models.importing.readers.json_text import read_json_object
from service.models.importing.readers.natural_order import natural_sort_key
from service.models.importing.readers.object_checkpoint import read_object_checkpoint
from service.models.importing.readers.protobuf import read_fields, read_varint
from service.models.importing.readers.table import read_table
from service.models.importing.readers.tensor_bundle import from_bytes
from tests.models.importing.tensor_bundle_writer import lstm_arrays, table, varint, write_bundle


def test_the_checksum_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's check value
    assert crc32c(bytes(32)) == 0x8A9136AA


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 12_345, 100_000, 9_000_000])
def test_a_checksum_of_parts_is_that_of_the_whole(size):
    content = np.random.default_rng(size).bytes(size)
    for cut in (0, size // 3, size):
        assert crc32c(content[cut:], crc32c(content[:cut])) == crc32c(content)


def test_segments_agree_with_the_byte_by_byte_definition():
    content = np.random.default_rng(1).bytes(20_000)
    register = 0xFFFFFFFF
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    assert crc32c(content) == register ^ 0xFFFFFFFF


@given(st.integers(0, 2**64 - 1))
def test_a_varint_comes_back(value):
    assert read_varint(varint(value), 0) == (value, len(varint(value)))


@given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=50), max_size=20))
def test_a_table_comes_back(values):
    assert read_table(table(sorted(values.items()))) == values


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_readers(content):
    for read in (read_table, lambda c: list(read_fields(c)), lambda c: read_json_object(c, "it")):
        try:
            read(content)
        except BadCheckpoint as refusal:
            assert str(refusal)  # noqa: PT017 - any refusal will do


def test_bfloat16_is_the_upper_half_of_a_float32():
    values = np.array([1.0, -2.5, 0.0], np.float32)
    stored = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    assert from_bytes(stored, "bfloat16").tolist() == values.tolist()


def test_layers_are_counted_as_numbers():
    assert sorted(["lstm_10", "lstm_2", "lstm"], key=natural_sort_key) == [
        "lstm",
        "lstm_2",
        "lstm_10",
    ]


def test_a_checkpoint_of_the_writer_is_read_back(tmp_path):
    arrays = lstm_arrays()
    write_bundle(tmp_path / "ckpt", arrays)
    with ImportFolder(tmp_path, 1 << 20) as folder:
        checkpoint = read_object_checkpoint(folder, PurePosixPath("ckpt/ckpt_1"))
        read = [array.read() for layer in checkpoint.layers for array in layer.arrays]
    assert all((a == b.astype("f4")).all() for a, b in zip(read, arrays.values(), strict=True))


def test_optimizer_slots_and_counters_are_not_weights(tmp_path):
    slot = "layer_with_weights-1/cell/kernel/.OPTIMIZER_SLOT/optimizer/m"
    extra = {
        slot: np.ones((2, 8)),
        "optimizer/_variables/1": np.ones((2, 8)),
        "optimizer/_iterations": np.array(3.0),
        "save_counter": np.array(1.0),
    }
    write_bundle(tmp_path, lstm_arrays() | extra)
    with ImportFolder(tmp_path, 1 << 20) as folder:
        checkpoint = read_object_checkpoint(folder, PurePosixPath("ckpt_1"))
    assert [layer.path for layer in checkpoint.layers] == [
        f"layer_with_weights-{i}" for i in range(3)
    ]


def test_a_folder_leaves_no_file_open(tmp_path):
    (tmp_path / "a").write_text("a")
    before = len(list(Path("/dev/fd").iterdir()))
    with ImportFolder(tmp_path, 100) as folder:
        folder.open(PurePosixPath("a"))
        folder.scratch()
    assert len(list(Path("/dev/fd").iterdir())) == before
