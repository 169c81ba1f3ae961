"""Writers of Keras's layouts without Keras, in which anything can be made wrong."""

import copy
import json
import zipfile

import h5py
import numpy as np

from tests.models.importing.tensor_bundle_writer import lstm_arrays

SEQUENTIAL = {
    "class_name": "Sequential",
    "config": {
        "name": "sequential",
        "layers": [
            {
                "class_name": "InputLayer",
                "config": {"name": "entry", "batch_input_shape": [1, None]},
            },
            {
                "class_name": "Embedding",
                "config": {"name": "embedding", "input_dim": 3, "output_dim": 2},
            },
            {
                "class_name": "LSTM",
                "config": {
                    "name": "lstm",
                    "units": 2,
                    "activation": "tanh",
                    "recurrent_activation": "sigmoid",
                    "use_bias": True,
                    "return_sequences": True,
                },
            },
            {
                "class_name": "Dense",
                "config": {"name": "dense", "units": 3, "activation": "linear"},
            },
        ],
    },
}
LAYERS = {
    "embedding": ["layer_with_weights-0/embeddings"],
    "lstm": [f"layer_with_weights-1/cell/{n}" for n in ("kernel", "recurrent_kernel", "bias")],
    "dense": [f"layer_with_weights-2/{n}" for n in ("kernel", "bias")],
}


def config_with(*layers, replace=None, **options):
    """SEQUENTIAL with layers put before the output, one replaced, or the LSTM's options changed."""
    config = copy.deepcopy(SEQUENTIAL)
    entries = config["config"]["layers"]
    entries[2]["config"] |= options
    entries[3:3] = layers
    for place, layer in (replace or {}).items():
        entries[place] = layer
    return config


def layer(class_name, **config):
    return {"class_name": class_name, "config": {"name": f"my_{class_name.lower()}"} | config}


def write_weights(group, arrays=None, skip=()):
    """The layout of Keras 2 in an open group; returns it."""
    arrays = arrays or lstm_arrays()
    group.attrs["layer_names"] = [name.encode() for name in LAYERS]
    group.attrs["keras_version"] = b"2.15.0"
    for name, keys in LAYERS.items():
        inner = group.create_group(name)
        paths = [f"{name}/{i}:0" for i in range(len(keys))]
        inner.attrs["weight_names"] = [path.encode() for path in paths]
        for path, key in zip(paths, keys, strict=True):
            if path not in skip:
                inner[path] = np.asarray(arrays[key], "float32")
    return group


def write_whole(path, config=None, **options):
    """A whole model in HDF5."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config or SEQUENTIAL)
        write_weights(file.create_group("model_weights"), **options)
    return path


def write_keras_3_weights(path):
    with h5py.File(path, "w") as file:
        arrays = lstm_arrays()
        for name, keys in LAYERS.items():
            place = f"layers/{name}/cell/vars" if name == "lstm" else f"layers/{name}/vars"
            for i, key in enumerate(keys):
                file[f"{place}/{i}"] = np.asarray(arrays[key], "float32")
    return path


def write_archive(path, members=None, config=None, infos=(), **changes):
    """A `.keras` file; `members` replace or add, None leaves out; `infos` are written as is."""
    weights = write_keras_3_weights(path.with_suffix(".tmp"))
    contents = {
        "metadata.json": json.dumps({"keras_version": "3.15.1"}).encode(),
        "config.json": json.dumps(config or SEQUENTIAL).encode(),
        "model.weights.h5": weights.read_bytes(),
    } | (members or {})
    weights.unlink()
    with zipfile.ZipFile(path, "w", **changes) as archive:
        for name, content in contents.items():
            if content is not None:
                archive.writestr(name, content)
        for info, content in infos:
            archive.writestr(info, content)
    return path
