"""Every hostile file is refused with its own message, and takes almost no memory."""

import sys
from pathlib import Path

import pytest

from service.errors import BadCheckpoint
from service.models.importing.request import ImportRequest
from tests.models.importing.hostile_formats import HOSTILE
from tests.models.importing.tensor_bundle_writer import lstm_arrays, write_bundle

MIB = 1024 * 1024
REQUEST = {"name": "m", "vocabulary": Path("vocabulary.json")}
DANGEROUS = ["compressed bomb", "zip bomb", "external storage", "shape beyond the size"]


@pytest.fixture
def bytes_held():
    """A function: a call → its result, and by how much it raised this process's peak memory."""
    if sys.platform != "linux":
        pytest.skip("the peak can only be reset on Linux")

    def held(key):
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition(key + ":")[2].split()[0])

    def during(call):
        Path("/proc/self/clear_refs").write_text("5")
        before = held("VmRSS")
        result = call()
        return result, held("VmHWM") - before

    return during


def refusal_of(import_here, request):
    with pytest.raises(BadCheckpoint) as refusal:
        import_here(request)
    return str(refusal.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_its_own_sentence_and_not_allocated(
    name, imports, import_here, bytes_held
):
    make, sentence = HOSTILE[name]
    request = ImportRequest(Path(make(imports)), **REQUEST)
    message, held_bytes = bytes_held(lambda: refusal_of(import_here, request))
    assert sentence in message
    assert len(message) < 500
    assert held_bytes < 32 * MIB  # the bombs declare 64 MiB to 256 GiB


def test_no_two_hostile_files_share_a_sentence():
    sentences = [sentence for _, sentence in HOSTILE.values()]
    assert len(sentences) == len(set(sentences))


def test_after_hostile_files_the_next_import_succeeds(imports, importer):
    for name in DANGEROUS:
        make, sentence = HOSTILE[name]
        with pytest.raises(BadCheckpoint) as refusal:
            importer.run(ImportRequest(Path(make(imports)), **REQUEST))
        assert sentence in str(refusal.value)
    write_bundle(imports / "good", lstm_arrays())
    assert importer.run(ImportRequest(Path("good"), **REQUEST)).spec.vocabulary_size == 3


@pytest.mark.parametrize("sixteenth", range(16))
@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_a_checkpoint_cut_anywhere_is_refused(sixteenth, suffix, imports, import_here):
    path = write_bundle(imports / "ckpt", lstm_arrays()) / f"ckpt_1.{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: sixteenth * len(content) // 16])
    assert "Error" not in refusal_of(import_here, ImportRequest(Path("ckpt"), **REQUEST))


@pytest.mark.parametrize("place", range(0, 700, 23))
def test_a_flipped_bit_never_changes_what_is_read(place, imports, import_here):
    path = write_bundle(imports / "ckpt", lstm_arrays()) / "ckpt_1.index"
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 0x10
    path.write_bytes(content)
    try:  # the padding of the footer means nothing
        import_here(ImportRequest(Path("ckpt"), **REQUEST))
    except BadCheckpoint as refusal:
        assert "Error" not in str(refusal)  # noqa: PT017 - it may also succeed
