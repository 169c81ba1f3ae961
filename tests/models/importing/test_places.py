"""Files in another place than the one that was named: found with a note, or asked for."""

import json
from pathlib import PurePosixPath

import numpy as np
import pytest

from service.errors import BadCheckpoint
from service.models.importing.detect_format import read_checkpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.readers.object_graph import read_object_graph
from service.models.importing.readers.variable_list import layers_of_list
from tests.models.importing.keras_writer import (
    SEQUENTIAL,
    config_with,
    layer,
    write_archive,
    write_keras_3_weights,
    write_weights,
    write_whole,
)
from tests.models.importing.mutants import graph_of
from tests.models.importing.tensor_bundle_writer import (
    GRAPH,
    field,
    lstm_arrays,
    write_bundle,
)


@pytest.fixture
def read(tmp_path):
    """A function: a source → its checkpoint, and the shapes of its layers."""

    def checkpoint(source):
        with ImportFolder(tmp_path, 1 << 30) as folder:
            found = read_checkpoint(folder, PurePosixPath(source))
            assert all(array.read().size for layer in found.layers for array in layer.arrays)
            return found

    return checkpoint


@pytest.mark.parametrize("name", ["m.h5", "m.hdf5", "m.keras", "m.safetensors"])
def test_the_only_model_in_a_folder_is_read(name, read, tmp_path):
    (tmp_path / "model").mkdir()
    write = write_archive if name == "m.keras" else write_whole
    write(tmp_path / "model" / name)
    (tmp_path / "model" / "vocabulary.json").write_text("[]")
    assert read("model").notes == (f"{name} is the only model in the folder",)


def write_only_weights(path):
    import h5py  # noqa: PLC0415 - only here

    with h5py.File(path, "w") as file:
        write_weights(file)


@pytest.mark.parametrize(
    ("weights", "config"),
    [
        ("m.h5", "m.json"),
        ("m.weights.h5", "m.json"),
        ("m_weights.h5", "m.json"),
        ("weights-improvement-19.hdf5", "model.json"),
    ],
)
def test_an_architecture_beside_weights_is_taken(weights, config, read, tmp_path):
    write_only_weights(tmp_path / weights)
    assert read(weights).config is None
    (tmp_path / config).write_text(json.dumps(SEQUENTIAL))
    found = read(weights)
    assert found.config == SEQUENTIAL
    assert found.notes == (f"the file has no architecture: that of {config}, beside it, is taken",)


@pytest.mark.parametrize("other", ["[]", '{"a": 1}', '{"class_name": "Lambda", "config": {}}'])
def test_other_json_beside_weights_is_none(other, read, tmp_path):
    write_only_weights(tmp_path / "m.h5")
    (tmp_path / "m.json").write_text(other)
    assert read("m.h5").config is None


def test_a_config_in_the_file_wins(read, tmp_path):
    write_whole(tmp_path / "m.h5")
    (tmp_path / "m.json").write_text(json.dumps(config_with(units=7)))
    found = read("m.h5")
    assert found.config == SEQUENTIAL
    assert found.notes == ()


def test_a_data_file_is_read_by_the_index_beside_it(read, tmp_path):
    write_bundle(tmp_path, lstm_arrays())
    found = read("ckpt_1.data-00000-of-00001")
    assert "whose index is beside it" in found.notes[0]


def test_the_first_shard_finds_its_index(read, tmp_path):
    write_keras_3_weights(tmp_path / "m_00000.weights.h5")
    index = {"weight_map": {"/": "m_00000.weights.h5"}}
    (tmp_path / "m.weights.json").write_text(json.dumps(index))
    assert "those that m.weights.json names are read" in read("m_00000.weights.h5").notes[0]


def test_an_epoch_in_a_name_is_no_shard(read, tmp_path):
    write_keras_3_weights(tmp_path / "m_00012.weights.h5")
    assert read("m_00012.weights.h5").format == "keras-3-weights-hdf5"


def test_the_assets_of_an_archive_are_read(read, tmp_path):
    write_archive(tmp_path / "m.keras", members={"assets/layers/a/vocabulary.txt": b"the\n"})
    assert read("m.keras").assets == {"assets/layers/a/vocabulary.txt": b"the\n"}


def test_a_layer_of_more_axes_is_left_to_the_config(tmp_path, read):
    import h5py  # noqa: PLC0415 - only here

    write_whole(tmp_path / "m.h5", config_with(layer("Conv1D", filters=2)))
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        del file["model_weights/lstm/lstm/0:0"]
        file["model_weights/lstm/lstm/0:0"] = np.zeros((2, 2, 2), "f4")
    assert (2, 2, 2) in [shape for found in read("m.h5").layers for shape in found.shapes]


@pytest.mark.parametrize("optimizer", ["optimizer", "model/optimizer", "adam"])
def test_an_optimizer_is_skipped_at_any_depth(optimizer, read, tmp_path):
    slots = {f"{optimizer}/_variables/{i}": np.ones((2, 8)) for i in range(1, 4)}
    slots |= {f"{optimizer}/_iterations": np.ones(())}
    arrays = {f"model/{name}": array for name, array in lstm_arrays().items()}
    write_bundle(tmp_path, arrays | slots)
    assert len(read("ckpt_1").layers) == 3
    write_bundle(tmp_path, arrays | slots, texts={GRAPH: graph_of(arrays | slots)})
    assert len(read("ckpt_1").layers) == 3


def test_weights_that_only_an_optimizer_names_are_found_through_the_model():
    def node(*children, key=""):
        out = b"".join(field(1, field(1, n) + field(2, name)) for name, n in children)
        return field(1, out + (field(2, field(3, key.encode())) if key else b""))

    graph = read_object_graph(
        node((b"optimizer", 1), (b"model", 3))
        + node((b"_trainable_variables", 2), (b"_iterations", 5))
        + node((b"0", 4))
        + node((b"dense", 6))
        + node(key="optimizer/_trainable_variables/0")
        + node(key="optimizer/_iterations")
        + node((b"_kernel", 4))
    )
    assert graph.paths == {"optimizer/_trainable_variables/0": "model/dense/_kernel"}


@pytest.mark.parametrize(
    ("shapes", "counts"),
    [
        ([(9, 4), (4, 12), (3, 12), (2, 12), (3, 9), (9,)], [1, 3, 2]),  # embedding, GRU, Dense
        ([(9, 12), (3, 12), (12,), (3, 9)], [3, 1]),  # one-hot, LSTM without a bias after it
        ([(9, 4), (4, 4), (4, 4), (4,), (4, 9), (9,)], [1, 3, 2]),  # embedding, SimpleRNN, Dense
        ([(9, 2), (2, 2), (2, 2), (2, 2), (2, 2), (2, 9)], None),  # where does the first end?
    ],
)
def test_shapes_alone_make_one_chain_or_are_refused(shapes, counts):
    from service.models.importing.checkpoint import StoredArray  # noqa: PLC0415

    variables = [("", StoredArray(shape, "float32", lambda: np.zeros(1))) for shape in shapes]
    if counts is None:
        with pytest.raises(BadCheckpoint, match="fit several chains of layers: name its variables"):
            layers_of_list(variables, ())
        return
    layers, notes = layers_of_list(variables, ())
    assert [len(found.arrays) for found in layers] == counts
    assert "inferred from their shapes" in notes[0]
