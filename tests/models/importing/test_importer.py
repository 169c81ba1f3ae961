"""The importer: requests, limits, versions and what is stored."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from service.errors import BadCheckpoint, TooLarge, UnknownCharacter, Validation
from service.models.bundle import Precision
from service.models.cell import Activation
from service.models.importing.importer import Importer
from service.models.importing.request import ImportLimits, ImportRequest
from service.models.store import ModelStore
from tests.models.importing.keras_writer import (
    write_archive,
    write_keras_3_weights,
    write_weights,
    write_whole,
)
from tests.models.importing.tensor_bundle_writer import lstm_arrays, write_bundle

VOCABULARY = Path("vocabulary.json")


def request(source="ckpt", **options):
    options = {"vocabulary": VOCABULARY} | options
    return ImportRequest(Path(source), "m", **options)


@pytest.fixture
def checkpoint(imports):
    return write_bundle(imports / "ckpt", lstm_arrays())


def limited(importer, **limits):
    return replace(importer, limits=ImportLimits(**limits))


@pytest.mark.usefixtures("checkpoint")
def test_versions_count_up_and_never_change(importer):
    first, second = importer.run(request()), importer.run(request())
    with pytest.raises(UnknownCharacter):
        first.tokenizer.encode("axb")
    assert (first.ref.version, second.ref.version) == (1, 2)
    assert first.manifest.digest == second.manifest.digest
    with pytest.raises(Validation, match="m@2 exists already"):
        importer.run(request(version=2))
    assert importer.store.read(first.ref).manifest == first.manifest


@pytest.mark.usefixtures("checkpoint")
def test_nothing_is_left_behind_but_the_bundle(importer):
    importer.run(request())
    with pytest.raises(Validation):
        importer.run(request("nothing"))
    assert [path.name for path in importer.store.folder.iterdir()] == ["m"]


@pytest.mark.usefixtures("checkpoint")
def test_an_import_that_takes_too_long_is_stopped(importer):
    with pytest.raises(BadCheckpoint, match=r"longer than its 0\.01 seconds and was stopped"):
        limited(importer, wall_s=0.01).run(request())


@pytest.mark.usefixtures("checkpoint")
def test_an_import_that_computes_too_long_is_stopped(importer, imports):
    (imports / "text").write_bytes(bytes(200_000_000))
    slow = request(vocabulary=None, vocabulary_text=Path("text"))
    with pytest.raises(BadCheckpoint, match="more than its 1 seconds of CPU time"):
        limited(importer, cpu_s=1).run(slow)
    with pytest.raises(BadCheckpoint, match=r"reading the files took more than 0\.1 seconds"):
        limited(importer, read_cpu_s=0.1).run(slow)


def test_a_file_that_sends_the_hdf5_library_in_circles_is_stopped(importer, imports):
    path = write_keras_3_weights(imports / "m.h5")
    with h5py.File(path, "a") as file:
        file["layers/dense/vars"].attrs["name"] = "dense"
    content = path.read_bytes()
    first_object = content.index(b"GCOL") + 24  # a size that, rounded up, becomes zero
    path.write_bytes(content[:first_object] + b"\xff" * 8 + content[first_object + 8 :])
    with pytest.raises(BadCheckpoint, match=r"reading the files took more than 1 seconds"):
        limited(importer, read_cpu_s=1).run(request("m.h5"))


@pytest.mark.usefixtures("checkpoint")
def test_an_import_that_needs_too_much_memory_is_stopped(importer, imports):
    (imports / "text").touch()
    os.truncate(imports / "text", 250_000_000)
    with pytest.raises(BadCheckpoint, match="more than its 700000000 bytes of memory"):
        limited(importer, memory_bytes=700_000_000).run(
            request(vocabulary=None, vocabulary_text=Path("text"))
        )


def test_a_file_over_the_limit_is_not_read(importer, imports):
    (imports / "big").write_bytes(bytes(6000))
    with pytest.raises(TooLarge, match="big has 6000 bytes; the limit for one file is 5000"):
        limited(importer, file_bytes=5000).run(request("big"))


@pytest.fixture
def crashing(importer):
    return replace(importer, child="tests.models.importing.crash")


@pytest.mark.usefixtures("checkpoint")
def test_a_child_that_dies_is_a_refusal(crashing):
    with pytest.raises(BadCheckpoint, match=r"the import crashed \(SIGSEGV\); its input may be"):
        crashing.run(request())


@pytest.mark.usefixtures("checkpoint")
def test_the_child_sees_nothing_of_the_servers_environment(crashing, monkeypatch):
    monkeypatch.setenv("CAROUSEL_SECRET", "x")
    with pytest.raises(BadCheckpoint):
        crashing.run(request())
    environment = json.loads((crashing.store.folder / "environment").read_text())
    assert "CAROUSEL_SECRET" not in environment
    assert environment["HDF5_PLUGIN_PRELOAD"] == "::"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"source": "../secret"}, "source is '../secret'; it must be a path under"),
        ({"source": "/etc/passwd"}, "source is '/etc/passwd'"),
        ({"source": "a\0b"}, "it must be a path under"),
        ({"vocabulary": Path("../v")}, "vocabulary is '../v'"),
        ({"source": "nothing"}, "source: nothing is not in the import folder"),
        ({"source": "link"}, "'link' in link is a symbolic link"),
        ({"source": "linked/ckpt_1"}, "'linked' in linked/ckpt_1.*is a symbolic link"),
        ({"source": "pipe"}, "pipe is not a regular file"),
        ({"vocabulary": Path("link")}, "'link' in link is a symbolic link"),
        ({"vocabulary": Path("nothing")}, "vocabulary: nothing is not in the import folder"),
        ({"vocabulary": Path("ckpt")}, "ckpt is a folder; name a file"),
        ({"vocabulary": None}, "give `vocabulary` "),
        ({"assume": {"colour": "red"}}, "assume.colour is not known; known are"),
        ({"assume": {"activation": "squish"}}, "assume.activation is 'squish'; it may be"),
        ({"version": 0}, "version is 0"),
    ],
)
@pytest.mark.usefixtures("checkpoint")
def test_a_request_without_meaning_is_refused(options, sentence, importer, imports):
    (imports / "link").symlink_to("/etc/passwd")
    (imports / "linked").symlink_to(imports / "ckpt")
    os.mkfifo(imports / "pipe")
    with pytest.raises(Validation, match=sentence):
        importer.run(request(**options))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'["a", "b"]', "the vocabulary has 2 tokens, but the weights are made for 3"),
        (b'["a", "b", "a"]', "is there twice"),
        (b"\x80\x04\x95", "pickle.load(open(a, 'rb')).word_index"),
        ("abé".encode("latin-1"), "not UTF-8 from byte 2 on; it can be read as cp1252"),
        ("ab\n".encode("utf-16"), "it can be read as utf-16"),
        (b'"abc"', "the vocabulary is one string of 3 characters"),
        (b'["a", "b", "new york"]', "the token 'new york' of the vocabulary has a blank in it"),
        (b'{"a": 0, "b": 1, "c": 3}', "ids are not 0 to 2"),
        (b'["a", "b", "\\ud800"]', "lone surrogate"),
        (b"[" * 100_000, "the vocabulary"),
        (b"To be, or not to be\nthat is the\n", "as `vocabulary_text` (--vocabulary-text)"),
        (
            ("学而时习之不亦说乎" * 6).encode(),
            "most lines of the vocabulary have several words",
        ),
        (b"to be\n\nthat is\n", "write a line break as \\n, or if it is the training text"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(content, sentence, imports, import_here):
    write_bundle(imports / "ckpt", lstm_arrays())
    (imports / "v").write_bytes(content)
    with pytest.raises(BadCheckpoint, match=re.escape(sentence)):
        import_here(request(vocabulary=Path("v")))


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        (b'{"b": 1, "a": 0, "c": 2}', "abc"),
        (b'{"0": "a", "2": "c", "1": "b"}', "abc"),
        (b'[{"a": 0, "b": 1, "c": 2}, {"0": "a", "1": "b", "2": "c"}]', "abc"),
        (b'{"a": 1, "b": 2, "c": 3}', "abc"),
        (b'{"a": 1, "b": 2}', ["", "a", "b"]),
        (b"a\nb\nc\n", "abc"),
        (b"\\n\n \nc", "\n c"),
        (b'["", "the", "king\'s"]', ["", "the", "king's"]),
        (b'["C4", "4.7.11", "rest"]', ["C4", "4.7.11", "rest"]),
        (b'["a", "<EOS>", "b"]', ["a", "<EOS>", "b"]),
    ],
)
def test_a_vocabulary_comes_in_many_forms(content, tokens, imports, import_here, tmp_path):
    write_bundle(imports / "ckpt", lstm_arrays())
    (imports / "v").write_bytes(content)
    import_here(request(vocabulary=Path("v")))
    assert json.loads((tmp_path / "vocabulary.json").read_text()) == list(tokens)


def test_a_text_that_is_too_short_to_tell_the_order_by_is_refused(imports, import_here):
    write_bundle(imports / "ckpt", lstm_arrays(vocabulary=4))
    (imports / "t").write_text("abc")
    with pytest.raises(BadCheckpoint, match="has 3 characters, too few to tell the order"):
        import_here(request(vocabulary=None, vocabulary_text=Path("t")))
    (imports / "t").write_text("abcdef" * 100)
    with pytest.raises(BadCheckpoint, match="6 different characters and 1 different words, but"):
        import_here(request(vocabulary=None, vocabulary_text=Path("t")))
    (imports / "t").write_text("dcba" * 100)
    with pytest.raises(BadCheckpoint, match="no order of these characters fits the weights"):
        import_here(request(vocabulary=None, vocabulary_text=Path("t")))


def test_tokens_that_stand_for_no_text_are_served(imports, import_here):
    write_bundle(imports / "ckpt", lstm_arrays())
    (imports / "v").write_text(json.dumps(["<PAD>", "<OOV>", "a"]))
    import_here(request(vocabulary=Path("v"), assume={"unknown_character": "unk"}))


@pytest.mark.usefixtures("checkpoint")
def test_what_becomes_of_unknown_characters_is_the_bundles(importer, import_here):
    skips = importer.run(request(assume={"unknown_character": "skip"}))
    assert importer.store.read(skips.ref).tokenizer.encode("axb") == [0, 1]
    with pytest.raises(BadCheckpoint, match="the vocabulary has no unknown token"):
        import_here(request(assume={"unknown_character": "unk"}))


@pytest.mark.usefixtures("checkpoint")
def test_what_is_assumed_can_be_given_and_is_written_down(import_here):
    report = import_here(request(assume={"recurrent_activation": "hard_sigmoid"}))
    (layer,) = report.architecture["layers"]
    assert layer["recurrent_activation"] == Activation.HARD_SIGMOID_02
    assert "recurrent_activation is hard_sigmoid_02, as `assume` has it" in str(
        report.metadata.assumptions
    )


def test_assume_may_not_contradict_the_file(imports, import_here):
    write_whole(imports / "m.h5")
    with pytest.raises(BadCheckpoint, match=r"is sigmoid, but assume\.recurrent_activation"):
        import_here(request("m.h5", assume={"recurrent_activation": "hard_sigmoid"}))
    import_here(request("m.h5", assume={"recurrent_activation": "sigmoid"}))


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_requested_precision_is_used(precision, import_here):
    metadata = import_here(request(precision=precision)).metadata
    assert metadata.precision is Precision(precision)
    assert metadata.precision_reason.startswith(f"{precision} was requested")


def test_int8_is_refused_where_it_cannot_be_exact(imports, import_here):
    write_bundle(imports / "ckpt", lstm_arrays())
    with pytest.raises(Validation, match=r"precision int8 needs h within \(-1, 1\)"):
        import_here(request(precision="int8", assume={"activation": "relu"}))


@pytest.mark.parametrize("writer", [write_whole, write_archive])
def test_a_file_is_known_by_its_content_not_its_name(writer, imports, import_here):
    writer(imports / "m.pkl")
    assert import_here(request("m.pkl")).architecture["vocabulary_size"] == 3


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize("source", ["ckpt", "ckpt/ckpt_1", "ckpt/ckpt_1.index"])
def test_a_checkpoint_is_found_by_folder_prefix_or_index(source, import_here):
    assert import_here(request(source)).architecture["vocabulary_size"] == 3


def test_the_highest_step_is_taken_where_no_file_names_the_latest(imports, import_here):
    for step in (2, 10, 9):
        write_bundle(imports / "ckpt", lstm_arrays(), f"ckpt_{step}")
    found = import_here(request()).metadata
    assert "ckpt_10.index" in found.source.files
    assert found.assumptions[0] == (
        "the folder has no `checkpoint` file: ckpt_10, the highest step, is imported"
    )


def test_a_layers_own_config_in_an_old_checkpoint_is_used(imports, import_here):
    config = {"class_name": "LSTM", "config": {"recurrent_activation": "hard_sigmoid"}}
    write_bundle(
        imports / "ckpt",
        lstm_arrays(),
        texts={"layer_with_weights-1/.ATTRIBUTES/OBJECT_CONFIG_JSON": json.dumps(config).encode()},
    )
    (layer,) = import_here(request()).architecture["layers"]
    assert layer["recurrent_activation"] == "hard_sigmoid_02"


@pytest.mark.parametrize(("version", "usual"), [
    ("2.2.4", "hard_sigmoid_02"), ("2.2.4-tf", "sigmoid"), ("2.15.0", "sigmoid"),
])  # fmt: skip
def test_an_old_keras_meant_a_hard_sigmoid(version, usual, imports, import_here):
    with h5py.File(imports / "w.h5", "w") as file:
        write_weights(file).attrs["keras_version"] = version
    (layer,) = import_here(request("w.h5")).architecture["layers"]
    assert layer["recurrent_activation"] == usual


def test_weights_of_other_widths_are_converted_and_noted(imports, import_here):
    with h5py.File(imports / "w.h5", "w") as file:
        write_weights(file)
        kernel = file["lstm/lstm/0:0"][()].astype("float64")
        del file["lstm/lstm/0:0"]
        file["lstm/lstm/0:0"] = kernel
    assumptions = import_here(request("w.h5")).metadata.assumptions
    assert "weights stored as float64 are converted to float32" in assumptions


def test_overflowing_logits_are_refused(imports, import_here):
    arrays = {name: np.abs(array) for name, array in lstm_arrays().items()}
    arrays["layer_with_weights-1/cell/recurrent_kernel"] = np.full((2, 8), 1e30)
    write_bundle(imports / "ckpt", arrays)
    assumed = {"activation": "relu", "recurrent_activation": "relu"}
    with pytest.raises(BadCheckpoint, match="overflow"):
        import_here(request(assume=assumed))


def test_a_store_that_is_not_there_yet_is_made(imports, tmp_path):
    write_bundle(imports / "ckpt", lstm_arrays())
    store = ModelStore(tmp_path / "new" / "store")
    assert Importer(imports, store).run(request()).ref == store.refs()[0]
