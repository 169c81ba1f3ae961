"""`carousel compress` and `decompress` as a person runs them: each call is another process."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from service.compression.container import FrameReader, FrameWriter
from service.models.compile import own_instructions
from tests.bundles import put_model
from tests.cli.commands import printed, refused
from tests.process import ROOT

TEXT = "Return the sum of a sequence of numbers, à la café 🙂.\r\n" * 90 + "中文"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with the bundled model, under its name and under another, and a second model."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "model_store" / "demo", folder / "model_store" / "demo")
    put_model(folder / "model_store", "other")
    (folder / "text").write_bytes(TEXT.encode())
    return folder


@pytest.fixture(scope="module")
def compressed(home) -> Path:
    assert "bits per character" in printed("compress", home / "text", folder=home)
    return home / "text.crsl"


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("threads", [(1, 2), (2, 1)])
def test_a_text_comes_back_in_another_process(home, tmp_path, precision, threads):
    path, back = tmp_path / "a", tmp_path / "b"
    one, two = (("--threads", n) for n in threads)
    more = "--precision", precision, "--output", path
    assert f"by demo@1 in {precision}" in printed(
        "compress", home / "text", *one, *more, folder=home
    )
    printed("decompress", path, "-o", back, *two, folder=home)
    assert back.read_bytes() == TEXT.encode()
    assert path.stat().st_size < len(TEXT.encode()) / 2


def test_an_empty_file_and_one_of_bytes(home, tmp_path):
    for name, content in (("empty", b""), ("bytes", bytes(range(256)))):
        (tmp_path / name).write_bytes(content)
        printed("compress", tmp_path / name, folder=home)
        (tmp_path / name).unlink()
        printed("decompress", tmp_path / f"{name}.crsl", folder=home)
        assert (tmp_path / name).read_bytes() == content


@pytest.mark.skipif(not own_instructions(), reason="needs a processor with two kernels of int8")
@pytest.mark.parametrize("kernel", ["own", "onnxruntime"])
def test_the_kernel_that_compressed_decompresses(home, tmp_path, monkeypatch, kernel):
    """Whatever the store and the settings would choose now."""
    monkeypatch.setattr("tests.process.INT8_KERNEL", kernel)
    path, back = tmp_path / "a", tmp_path / "b"
    printed("compress", home / "text", "-o", path, folder=home)
    with path.open("rb") as file:
        assert FrameReader(file).header.kernel == kernel
    others = {"own": "onnxruntime", "onnxruntime": "own"}
    monkeypatch.setattr("tests.process.INT8_KERNEL", others[kernel])
    printed("decompress", path, "-o", back, folder=home)
    assert back.read_bytes() == TEXT.encode()


def test_another_model_is_refused(home, compressed, tmp_path):
    said = refused("decompress", compressed, "-o", tmp_path / "b", "--model", "other", folder=home)
    assert said.startswith("the file was compressed by demo@1 (")
    assert "and other@1 is another model" in said
    assert not (tmp_path / "b").exists()


def test_a_model_that_is_not_stored_is_refused(compressed, tmp_path):
    put_model(tmp_path / "model_store", "demo")
    said = refused("decompress", compressed, "-o", tmp_path / "b", folder=tmp_path)
    assert "which is not stored in" in said
    assert "import that model, or give its --model-store" in said


def with_header(path: Path, out: Path, **values) -> None:
    """The same frames under another header, with checksums that are right."""
    reader, content = FrameReader(io.BytesIO(path.read_bytes())), io.BytesIO()
    writer = FrameWriter(content, replace(reader.header, **values))
    frame = next(reader.frames())
    writer.add(TEXT.encode(), frame.sizes, frame.codes)
    writer.end()
    out.write_bytes(content.getvalue())


def test_a_machine_that_computes_other_bits_is_refused(home, compressed, tmp_path):
    with_header(compressed, tmp_path / "a", probe="0" * 32, computed_by="a kernel of the moon")
    said = refused("decompress", tmp_path / "a", "-o", tmp_path / "b", folder=home)
    assert said.startswith("the file was compressed with a kernel of the moon, and this machine")
    assert said.endswith("decompress it on a machine like the first")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_kernel_of_no_name_is_refused(home, compressed, tmp_path):
    with_header(compressed, tmp_path / "a", kernel="abacus")
    said = refused("decompress", tmp_path / "a", "-o", tmp_path / "b", folder=home)
    assert said == "the file cannot be decompressed: 'abacus' is not a valid Int8Kernel"


def test_a_damaged_file_leaves_no_text(home, compressed, tmp_path):
    content = bytearray(compressed.read_bytes())
    content[-60] ^= 1
    (tmp_path / "a").write_bytes(content)
    said = refused("decompress", tmp_path / "a", "-o", tmp_path / "b", folder=home)
    assert said == "the compressed file is damaged: a checksum is wrong; get it again"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_file_that_is_there_is_not_replaced(home, compressed):
    said = refused("decompress", compressed, folder=home)
    assert said.endswith("text exists; delete it, or name another file with --output")
    assert "name the text with --output" in refused("decompress", home / "text", folder=home)
