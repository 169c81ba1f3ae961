"""Files that must be refused: for each, how it is made and a part of its error message.

A maker gets the import folder and returns the source's name. Every known attack on Keras's loaders
by a file is among them.
"""

import json
import os
import pickle
import struct
import zipfile

import h5py
import numpy as np

from tests.models.importing.keras_writer import (
    SEQUENTIAL,
    config_with,
    layer,
    write_archive,
    write_weights,
    write_whole,
)
from tests.models.importing.tensor_bundle_writer import (
    STRING,
    field,
    lstm_arrays,
    table,
    write_bundle,
)

HOSTILE = {}
KERNEL = "lstm/0:0"
RECURRENT = "layer_with_weights-1/cell/recurrent_kernel"


def hostile(name, sentence):
    """Register a maker under a name, with a part of the message that refuses its file."""

    def register(make):
        assert name not in HOSTILE
        HOSTILE[name] = (make, sentence)
        return make

    return register


def whole(name, sentence, config):
    hostile(name, sentence)(lambda folder: write_whole(folder / "m.h5", config).name)


def archive(name, sentence, config=None, **options):
    hostile(name, sentence)(
        lambda folder: write_archive(folder / "m.keras", config=config, **options).name
    )


def bundle(name, sentence, **options):
    def make(folder):
        write_bundle(folder / "ckpt", lstm_arrays(), **options)
        return "ckpt"

    hostile(name, sentence)(make)


def weights_file(name, sentence):
    """Decorate a change to an open HDF5 file of weights that lacks the LSTM's kernel."""

    def register(change):
        def make(folder):
            with h5py.File(folder / "w.h5", "w") as file:
                change(write_weights(file, skip=(KERNEL,)), folder)
            return "w.h5"

        return hostile(name, sentence)(make)

    return register


def plain(name, sentence, content, file="m"):
    def make(folder):
        (folder / file).write_bytes(content)
        return file

    hostile(name, sentence)(make)


# Layers that are code, read another file, or read the text backwards.
LAMBDA = layer("Lambda", function=["4wEAAAAA", None, None], function_type="lambda")
whole("lambda in h5", "'my_lambda' cannot be served: it is a Lambda", config_with(LAMBDA))
archive(
    "lambda in keras",
    "'code' cannot be served: it is a Lambda: it contains Python code",
    config_with({"class_name": "Lambda", "module": "keras.layers", "config": {
        "name": "code",
        "function": {"class_name": "__lambda__", "config": {"value": "4wEAAAAA"}},
    }}),
)  # fmt: skip
archive("string lookup", "it is a StringLookup", config_with(
    layer("StringLookup", vocabulary="/etc/passwd")))  # fmt: skip
archive("text vectorization", "it is a TextVectorization", config_with(layer("TextVectorization")))
archive("saved model in a layer", "it names a SavedModel", config_with(
    layer("TFSMLayer", filepath="/tmp/evil")))  # fmt: skip
archive("torch in a layer", "it contains a pickle", config_with(layer("TorchModuleWrapper")))
archive("foreign module", "custom class system", config_with(
    {"module": "os", "class_name": "system", "config": {"command": "touch owned"}}))  # fmt: skip
archive("foreign module under a known name", "custom class Dropout", config_with(
    {"module": "evil.layers", "class_name": "Dropout", "config": {"rate": 0.1}}))  # fmt: skip
archive("registered class", "custom class LSTM", config_with(
    {"module": "keras.layers", "class_name": "LSTM", "registered_name": "evil>LSTM",
     "config": {"units": 2}}))  # fmt: skip
archive("subclassed model", "the model is of the class 'MyModel'",
        {"module": "__main__", "class_name": "MyModel", "config": {"units": 2}})  # fmt: skip
whole("bidirectional", "the file does not say how many tokens are read", config_with(
    layer("Bidirectional", layer=layer("LSTM", units=2))))  # fmt: skip
whole("model in a model", "a model inside the model", config_with(SEQUENTIAL))
whole("hidden normalisation", "no weights for layer 'my_layernormalization'", config_with(
    layer("LayerNormalization", axis=-1)))  # fmt: skip
whole("normalisation of steps", "axis", config_with(layer("LayerNormalization", axis=1)))
whole("unknown activation", "activation is 'mish'", config_with(activation="mish"))
whole("activation as code", "activation is 'my_function'", config_with(
    activation={"module": "evil", "class_name": "function", "config": "my_function"}))  # fmt: skip
whole("unknown option", "its option 'projection' is not known", config_with(projection=3))
whole("not a number", "units is two, not a positive", config_with(units="two"))
whole("negative units", "units is -2, not a positive", config_with(units=-2))
whole("nine recurrent layers", "the model has 9 recurrent layers", config_with(
    *(layer("LSTM", units=2, return_sequences=True) for _ in range(8))))  # fmt: skip
whole("hidden dense", "no weights for layer 'my_dense'", config_with(layer("Dense", units=2)))
whole("relu at the end", "its activation is 'relu'", config_with(
    replace={4 - 1: layer("Dense", units=3, activation="relu")}))  # fmt: skip

# Sizes that are declared but not in the file.
whole("parameter bomb", "the limit is 536870912", config_with(units=10**6))
whole("shapes that are not the config's", "its architecture needs", config_with(units=3))


@weights_file("shape bomb", "but the file has 0 bytes of it")
def _(file, _folder):
    file["lstm"].create_dataset(KERNEL, shape=(2**18, 2**18), dtype="f4", chunks=(64, 64))


@weights_file("compressed bomb", "declares the shape (4096, 16384)")
def _(file, _folder):
    zeros = np.zeros((4096, 16384), "f4")
    file["lstm"].create_dataset(KERNEL, data=zeros, chunks=(512, 16384), compression=1)


@weights_file("parameter bomb in shapes", "not an LSTM's or a GRU's")
def _(file, _folder):
    file["lstm"][KERNEL] = np.zeros((2, 8), "f4")
    del file["lstm/lstm/1:0"]
    file["lstm/lstm/1:0"] = np.zeros((3, 8), "f4")


# References of HDF5 to other files and to code.
@weights_file("external storage", "external storage")
def _(file, folder):
    (folder / "secret").write_bytes(bytes(64))
    file["lstm"].create_dataset(
        KERNEL, shape=(2, 8), dtype="f4", external=[(str(folder / "secret"), 0, 64)]
    )


@weights_file("external link", "is an external link")
def _(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["kernel"] = np.zeros((2, 8), "f4")
    file["lstm"][KERNEL] = h5py.ExternalLink(str(folder / "other.h5"), "/kernel")


@weights_file("soft link", "is a soft link")
def _(file, _folder):
    file["lstm"][KERNEL] = h5py.SoftLink("/lstm/lstm/1:0")


@weights_file("virtual data set", "is virtual")
def _(file, folder):
    layout = h5py.VirtualLayout((2, 8), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "kernel", (2, 8))
    file["lstm"].create_virtual_dataset(KERNEL, layout)


@weights_file("unknown filter", "is compressed by filter 32000")
def _(file, _folder):
    file["lstm"].create_dataset(KERNEL, data=np.zeros((2, 8), "f4"), compression="lzf")


@weights_file("strings for numbers", "has the type object; weights are floats")
def _(file, _folder):
    file["lstm"].create_dataset(KERNEL, data=[["cos\nsystem"] * 8] * 2, dtype=h5py.string_dtype())


@weights_file("integers for numbers", "has the type int64; weights are floats")
def _(file, _folder):
    file["lstm"][KERNEL] = np.zeros((2, 8), "i8")


@weights_file("rank three", "weights have at most 2 axes")
def _(file, _folder):
    file["lstm"][KERNEL] = np.zeros((2, 8, 1), "f4")


@weights_file("a path out of the layer", "'/dense/dense/0:0' in /lstm")
def _(file, _folder):
    file["lstm"].attrs["weight_names"] = [b"/dense/dense/0:0", b"lstm/1:0", b"lstm/2:0"]


@weights_file("numbers for names", "is not a list of strings")
def _(file, _folder):
    file.attrs["layer_names"] = np.arange(3.0)


@weights_file("a layer that is not there", "names the layer 'ghost'")
def _(file, _folder):
    file.attrs["layer_names"] = [b"ghost"]


@weights_file("a group in itself", "32 deep, at /again0")
def _(file, _folder):
    for i in range(4):
        file[f"again{i}"] = file["/"]


@weights_file("a deep file", "32 deep, at /deep")
def _(file, _folder):
    file.create_group("/".join(["deep"] * 40))


@weights_file("weights of nan", "holds values that are not finite")
def _(file, _folder):
    file["lstm"][KERNEL] = np.full((2, 8), np.nan, "f4")


@weights_file("array that is missing", "names 'lstm/0:0' in /lstm")
def _(_file, _folder):
    pass


@hostile("keras 1", "as Keras 1 wrote them")
def _(folder):
    with h5py.File(folder / "w.h5", "w") as file:
        write_weights(file)
        group = file["lstm"]
        for i in range(12):
            group[f"old{i}"] = np.zeros((2, 2), "f4")
        group.attrs["weight_names"] = [f"old{i}".encode() for i in range(12)]
    return "w.h5"


@hostile("hdf5 cut short", "the HDF5 file is damaged")
def _(folder):
    path = write_whole(folder / "m.h5")
    path.write_bytes(path.read_bytes()[:4000])
    return "m.h5"


@hostile("hdf5 of something else", "was not written by Keras")
def _(folder):
    with h5py.File(folder / "m.h5", "w") as file:
        file["table"] = np.zeros(3)
    return "m.h5"


# JSON.
archive("deep json", "config.json is nested 5000 deep", members={
    "config.json": b'{"a":' * 5000 + b"1" + b"}" * 5000})  # fmt: skip
archive("giant json", "config.json is over 4194304 bytes", members={
    "config.json": os.urandom(5_000_000)})  # fmt: skip
archive("nan in json", "config.json has the number NaN", members={"config.json": b'{"units": NaN}'})
archive("the same key twice", "has the key 'units' twice", members={
    "config.json": b'{"units": 1, "units": 2}'})  # fmt: skip
archive("json cut short", "config.json is not JSON", members={"config.json": b'{"units": '})
archive("json list", "metadata.json is not a JSON object", members={"metadata.json": b"[]"})
archive("no version", "has no keras_version", members={"metadata.json": b"{}"})

# Archives.
archive("zip bomb", "would unpack from", compression=zipfile.ZIP_DEFLATED, members={
    "config.json": bytes(64 * 1024 * 1024)})  # fmt: skip
archive("zip slip", "'../../owned' has a path outside", members={"../../owned": b"x"})
archive("absolute member", "'/etc/owned' has a path outside", members={"/etc/owned": b"x"})
archive("unknown member", "'evil.py' is not one that Keras writes", members={"evil.py": b"x"})
archive("many members", "has 53 members", members={f"assets/{i}": b"" for i in range(50)})
archive("no weights", "has no member model.weights.h5", members={"model.weights.h5": None})
archive("npz weights", "has its weights as model.weights.npz", members={
    "model.weights.h5": None, "model.weights.npz": b"x"})  # fmt: skip


@hostile("member twice", "two members named 'config.json'")
def _(folder):
    name = write_archive(folder / "m.keras", members={"configXjson": b"{}"}).name
    content = (folder / name).read_bytes().replace(b"configXjson", b"config.json")
    (folder / name).write_bytes(content)
    return name


@hostile("symbolic link in an archive", "is a symbolic link")
def _(folder):
    info = zipfile.ZipInfo("assets/link")
    info.external_attr = 0o120777 << 16
    return write_archive(folder / "m.keras", infos=[(info, b"/etc/passwd")]).name


@hostile("encrypted member", "is encrypted")
def _(folder):
    name = write_archive(folder / "m.keras").name
    content = bytearray((folder / name).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(signature) + offset] |= 1
    (folder / name).write_bytes(content)
    return name


@hostile("lying size", "the archive is damaged: Bad CRC-32")
def _(folder):
    name = write_archive(
        folder / "m.keras",
        compression=zipfile.ZIP_DEFLATED,
        members={"metadata.json": bytes(10**6)},
    ).name
    content = (folder / name).read_bytes()
    true, declared = struct.pack("<I", 10**6), struct.pack("<I", 10)
    (folder / name).write_bytes(content.replace(true, declared))
    return name


@hostile("archive cut short", "the archive is damaged: File is not a zip file")
def _(folder):
    path = write_archive(folder / "m.keras")
    path.write_bytes(path.read_bytes()[:-30])
    return path.name


@hostile("npz of pickles", "is a NumPy .npz archive")
def _(folder):
    np.savez(folder / "m.npz", weights=np.array([{"a": 1}], dtype=object))
    return "m.npz"


@hostile("pytorch", "is a PyTorch archive")
def _(folder):
    with zipfile.ZipFile(folder / "m.pt", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(os.system))
    return "m.pt"


# TensorFlow checkpoints.
def state(name, sentence, text):
    def make(folder):
        write_bundle(folder / "ckpt", lstm_arrays())
        (folder / "ckpt" / "checkpoint").write_text(text)
        return "ckpt"

    hostile(name, sentence)(make)


state(
    "absolute path in checkpoint",
    "but passwd.index does not exist",
    'model_checkpoint_path: "/etc/passwd"',
)
state("dots in checkpoint", "points to '../../ckpt'", 'model_checkpoint_path: "../../ckpt"')
state("checkpoint of nothing", "ckpt_9.index does not exist", 'model_checkpoint_path: "ckpt_9"')
state("checkpoint without a path", "has no line model_checkpoint_path", "#!/bin/sh\nrm -rf /\n")
bundle("offset beyond the file", "is at bytes 9223372036854775807",
       change={RECURRENT: {"offset": 2**63 - 1}})  # fmt: skip
bundle("size beyond the file", "of a data file that has", change={RECURRENT: {"size": 2**40}})
bundle("shape beyond the size", "its shape (1099511627776, 1099511627776)",
       change={RECURRENT: {"shape": (2**40, 2**40)}})  # fmt: skip
bundle("damaged tensor", "recurrent_kernel/.ATTRIBUTES/VARIABLE_VALUE is damaged",
       change={RECURRENT: {"crc": 1}})  # fmt: skip
bundle("shard that is not there", "is in data file 7 of 1", change={RECURRENT: {"shard": 7}})
bundle("partitioned", "is a partitioned variable", change={RECURRENT: {"extra": field(7, b"")}})
bundle("strings in a variable", "has the data type 7", change={RECURRENT: {"dtype": STRING}})
bundle("many shards", "has 2147483647 data files", shards=2**31 - 1)
bundle("compressed block", "is compressed, which TensorFlow never writes", compression=b"\1")
bundle("no data file", "ckpt_1.data-00000-of-00002 is missing", shards=2)
bundle("config of a layer that lies", "nested 200 deep", texts={
    "layer_with_weights-1/.ATTRIBUTES/OBJECT_CONFIG_JSON": b"{" * 200})  # fmt: skip


@hostile("attention in a checkpoint", "has weights named 'query'")
def _(folder):
    write_bundle(folder / "ckpt", lstm_arrays() | {"layer_with_weights-1/query": np.ones(8)})
    return "ckpt"


@hostile("bidirectional checkpoint", "it is a Bidirectional, which")
def _(folder):
    arrays = {key.replace("-1/", "-1/forward_layer/"): a for key, a in lstm_arrays().items()}
    write_bundle(folder / "ckpt", arrays)
    return "ckpt"


@hostile("key of a gigabyte", "has a key of 1073741824 bytes")
def _(folder):
    content = table([])  # its first entry is made by hand
    entry = b"\0" + b"\x80\x80\x80\x80\x04" + b"\0" + bytes(20)
    from service.models.importing.readers.crc32c import masked_crc32c  # noqa: PLC0415

    body = entry + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
    block = body + b"\0" + masked_crc32c(body, b"\0").to_bytes(4, "little")
    index = b"\0\1\2z" + b"\0" + bytes([len(body)])
    index += (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
    block += index + b"\0" + masked_crc32c(index, b"\0").to_bytes(4, "little")
    footer = b"\0\0" + bytes([len(body) + 5, len(index)])
    (folder / "m.index").write_bytes(block + footer.ljust(40, b"\0") + content[-8:])
    return "m.index"


@hostile("damaged index", "a block's checksum does not match")
def _(folder):
    path = write_bundle(folder / "ckpt", lstm_arrays()) / "ckpt_1.index"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    return "ckpt"


@hostile("index of tf.train.Saver", "none of its variables is one of a BasicLSTMCell")
def _(folder):
    folder.joinpath("m.index").write_bytes(table([(b"", field(1, 1)), (b"w", b"")]))
    folder.joinpath("m.data-00000-of-00001").write_bytes(b"")
    return "m.index"


@hostile("object graph in circles", "0 layers with the shapes of an LSTM or a GRU")
def _(folder):
    node = field(1, field(1, 0) + field(2, b"self")) * 1000
    write_bundle(folder / "ckpt", {}, texts={"_CHECKPOINTABLE_OBJECT_GRAPH": field(1, node) * 50})
    return "ckpt"


@hostile("folder of something else", "has no TensorFlow checkpoint")
def _(folder):
    (folder / "empty").mkdir()
    return "empty"


# Files that are no checkpoint.
plain("pickle", "it is a pickle, which is a program", pickle.dumps({"vocab": 1}), "model.h5")
plain("empty file", "it is empty", b"", "m.index")
plain("yaml", "it is a model in YAML", b"class_name: Sequential\nconfig: !!python/object:os.x\n")
plain("json alone", "at most an architecture", json.dumps(SEQUENTIAL).encode())
plain("tflite", "TensorFlow Lite", b"\x1c\0\0\0TFL3" + bytes(64))
plain("gzip", "it is compressed; unpack", b"\x1f\x8b\x08" + bytes(64))
plain("safetensors cut short", "declares a header of 64 bytes", b"\x40\0\0\0\0\0\0\0" + b'{"w":1}')
plain("noise", "none of the supported formats", bytes(range(256)))
plain(
    "text",
    "training text as `vocabulary_text`",
    b"Shall I compare thee to a summer's day?",
)
plain("text, cut within a character", "it is a text", b"x" + "\u4e2d".encode() * 999)
TOKENIZER = json.dumps({"class_name": "Tokenizer", "config": {"word_index": "{}"}})
plain("Keras Tokenizer", "a Keras Tokenizer's JSON, which is a vocabulary", TOKENIZER.encode())
plain("its JSON in a string", "give it as `vocabulary` (--voc", json.dumps(TOKENIZER).encode())
plain("tokenizer.json", "Hugging Face tokenizer.json", b'{"version": "1.0", "truncation": null}')
plain("tokens", "it is JSON with tokens, which is a vocabulary", b'["a", "b"]')
plain("map of tokens", "JSON with tokens, which is a vocabulary without", b'{"a\\"b": 0, "c": 1}')
plain("map of ids", "JSON with tokens, which is a vocabulary", b'{"0": "a", "1": "b"}')
plain("data alone", "give its .index", bytes(100), "ckpt_1.data-00000-of-00001")
