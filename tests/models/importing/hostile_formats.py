"""More files that must be refused: each in a format that others than Keras write, or a part of one.

Importing this module adds them to HOSTILE.
"""

import json
import pickle
import struct
import zipfile
import zlib

import numpy as np

from tests.models.importing.hostile import HOSTILE, KERNEL, hostile, plain, weights_file
from tests.models.importing.keras_writer import write_keras_3_weights
from tests.models.importing.saver_writer import saver_arrays, write_saver
from tests.models.importing.tensor_bundle_writer import field, lstm_arrays, table, write_bundle

__all__ = ["HOSTILE"]

plain("pickle of protocol 0", "json.dump(pickle.load(open(a, 'rb')).word_index",
      pickle.dumps({"the": 1}, protocol=0), "tokenizer.pickle")  # fmt: skip
plain("pickle of protocol 1", "or write its `.to_json()`", pickle.dumps(["a"], protocol=1))
plain("joblib", "as joblib compresses a pickle", zlib.compress(pickle.dumps([1]), 3))
plain("old pytorch", "torch.load(a, weights_only=True)",
      b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M", "pytorch_model.bin")  # fmt: skip
plain("git lfs", "Git LFS pointer of 60 bytes: download",
      b"version https://git-lfs.github.com/spec/v1\n".ljust(60), "m.h5")  # fmt: skip
plain("html", "an HTML page, not the file", b"\n<!DOCTYPE html>\n<html>", "m.h5")


@hostile("torchscript", "torch.jit.load(a).state_dict()")
def _(folder):
    with zipfile.ZipFile(folder / "m.pt", "w") as file:
        file.writestr("m/constants.pkl", b"")
        file.writestr("m/code/__torch__.py", b"")
    return "m.pt"


@hostile("zip of a saved model", "unpack it and give the folder of that file")
def _(folder):
    with zipfile.ZipFile(folder / "m.zip", "w") as file:
        file.writestr("saved/saved_model.pb", b"")
        file.writestr("saved/variables/variables.index", b"")
    return "m.zip"


@hostile("zip of a model", "'a/model.h5' in it: unpack it and give that file")
def _(folder):
    with zipfile.ZipFile(folder / "m.zip", "w") as file:
        file.writestr("a/model.h5", b"")
    return "m.zip"


def saved_model(name, sentence, arrays, files=(), **options):
    """A SavedModel whose variables are `arrays`; `files` maps other names to their contents."""

    def make(folder):
        if arrays is not None:
            write_bundle(folder / "saved" / "variables", arrays, name="variables", **options)
        (folder / "saved" / "variables").mkdir(parents=True, exist_ok=True)
        for file, content in {"saved_model.pb": b"\x08\x01", **dict(files)}.items():
            (folder / "saved" / file).write_bytes(content)
        return "saved"

    hostile(name, sentence)(make)


def metadata(text):
    """A keras_metadata.pb with the JSON of the root object."""
    return {"keras_metadata.pb": field(1, field(3, b"root") + field(5, text))}


saved_model("saved model without variables", "but variables/variables.index is missing", None)
saved_model("saved model with a deep config", "the model's config in keras_metadata.pb is nested",
            lstm_arrays(), metadata(b"[" * 70))  # fmt: skip
saved_model("saved model of cut metadata", "a field longer than its message",
            lstm_arrays(), {"keras_metadata.pb": b"\x0a\x7f"})  # fmt: skip
saved_model("saved model of no chain", "name its variables and say the architecture",
            {"variables/0": np.ones((3, 2)), "variables/1": np.ones(5)})  # fmt: skip
saved_model("saved model of two chains", "their shapes fit several chains",
            {f"variables/{i}": np.ones(s) for i, s in enumerate(
                [(2, 2)] * 6)})  # fmt: skip
saved_model("saved model of many variables", "has 300 variables, over 256",
            {f"variables/{i}": np.ones((2, 2)) for i in range(300)})  # fmt: skip
LONG = field(1, field(1, field(1, 1) + field(2, b"x" * 4096)))
saved_model("object with a long name", "an object's name of 4096 bytes", lstm_arrays(),
            texts={"_CHECKPOINTABLE_OBJECT_GRAPH": LONG})  # fmt: skip


# Shards of Keras 3.
def shards(name, sentence, weight_map, *files):
    def make(folder):
        (folder / "m.weights.json").write_text(json.dumps({"weight_map": weight_map}))
        for file in files:
            write_keras_3_weights(folder / file)
        return "m.weights.json"

    hostile(name, sentence)(make)


shards("shard in another folder", "'../m.h5', which is in another folder", {"a": "../m.h5"})
shards("absolute shard", "'/etc/passwd', which is in another folder", {"a": "/etc/passwd"})
shards("shard that is missing", "names m_00000.weights.h5, which is not beside it",
       {"a": "m_00000.weights.h5"})  # fmt: skip
shards("shard that is a number", "has '7', which is no file's name", {"a": [7]})
shards("weight map that is a list", "has no weight_map of names", [])
shards("many shards of keras", "has 300 shards", {str(i): f"{i}.h5" for i in range(300)})
shards("the same array twice", "two files have the array", {"a": ["a.h5", "b.h5"]}, "a.h5", "b.h5")


@hostile("shard without an index", "is one shard of several: give m.weights.json")
def _(folder):
    return write_keras_3_weights(folder / "m_00000.weights.h5").name


@hostile("two models in a folder", "has 2 models, give the path of one: a.h5, b.keras")
def _(folder):
    (folder / "models").mkdir()
    for name in ("a.h5", "b.keras"):
        (folder / "models" / name).write_bytes(b"")
    return "models"


# Checkpoints of tf.train.Saver.
def saver(name, sentence, **arrays):
    def make(folder):
        write_saver(folder / "save", saver_arrays("basic_lstm_cell") | arrays)
        return "save"

    hostile(name, sentence)(make)


CELL = "rnnlm/multi_rnn_cell/cell_0/basic_lstm_cell"
saver("saver kernel of other blocks", "a cell of 4 blocks has not",
      **{f"{CELL}/kernel": np.ones((11, 23))})  # fmt: skip
saver(
    "saver kernel of no inputs", "kernel of shape (6, 24)", **{f"{CELL}/kernel": np.ones((6, 24))}
)
saver("saver kernel of one axis", "kernel of shape (24,)", **{f"{CELL}/kernel": np.ones(24)})
saver("saver cell without a bias", "layer 'a/lstm_cell' has no bias",
      **{"a/lstm_cell/kernel": np.ones((4, 4))})  # fmt: skip


@hostile("checkpoint of tensorflow 0", "a TensorFlow checkpoint in one file")
def _(folder):
    (folder / "model.ckpt").write_bytes(table([(b"", b"")]))
    return "model.ckpt"


# Files of safetensors.
def tensors(name, sentence, text, data=b""):
    content = text if isinstance(text, bytes) else json.dumps(text).encode()
    plain(name, sentence, struct.pack("<Q", len(content)) + content + data, "m.safetensors")


def described(shape, first, last, dtype="F32"):
    return {"lstm.weight_ih_l0": {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}}


tensors("tensor beyond the file", "tensors take 64 bytes, but it has 0", described([16], 0, 64))
tensors("tensor of a terabyte", "its shape [1099511627776] takes others",
        described([2**40], 0, 64), bytes(64))  # fmt: skip
tensors("tensor of negative size", "no shape and data_offsets", described([-1], 0, 4), bytes(4))
tensors("tensor that ends before it begins", "has -4 bytes", described([1], 4, 0), bytes(4))
tensors("hole between tensors", "begins at byte 8, not at 0", described([1], 8, 12), bytes(12))
tensors("tensor of pickles", "has the type 'OBJECT'", described([1], 0, 4, "OBJECT"), bytes(4))
tensors("tensor of a list", "is not described by an object", {"w": []})
tensors("safetensors nested deep", "the header of the safetensors file is nested", b'{"a":' * 99)
tensors("many tensors", "has 5000 tensors, over 4096", {str(i): 0 for i in range(5000)})
tensors("no recurrent tensors", "has no weight_ih and weight_hh of an LSTM", {})
tensors("tensors of no cell", "which are no LSTM's, GRU's or RNN's", {
    name: {"dtype": "F32", "shape": [2, 2], "data_offsets": [i * 16, i * 16 + 16]}
    for i, name in enumerate(["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"])
}, bytes(48))  # fmt: skip


@weights_file("int8 without a scale", "has the type int8, but no scale")
def _(file, _folder):
    for name in (KERNEL, "lstm/1:0", "lstm/2:0"):
        if name in file["lstm"]:
            del file["lstm"][name]
    file["lstm"].create_group("q")
    file["lstm/q/0"] = np.ones((2, 8), "i1")
    file["lstm"].attrs["weight_names"] = [b"q/0"]
