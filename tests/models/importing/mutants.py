"""Files of every format with one part damaged, and what reading each of them ends in.

`python mutants.py FORMAT SEED FIRST LAST FOLDER` reads mutants FIRST to LAST - 1 and prints the
number of each outcome as JSON. Checksums and containers are made after the damage, so that it
reaches the code behind them. FOLDER/progress has the number of the mutant that is being read: the
HDF5 library can loop for ever, which ends the process by SIGPROF.
"""

import io
import json
import random
import resource
import signal
import struct
import sys
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

import h5py
import numpy as np

from service.errors import BadCheckpoint, TooLarge, Validation
from service.models.importing.assumptions import Assumptions
from service.models.importing.canonical_weights import convert
from service.models.importing.detect_format import read_checkpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.readers.crc32c import masked_crc32c
from service.models.importing.run_import import architecture_of
from tests.models.importing.keras_writer import (
    SEQUENTIAL,
    write_keras_3_weights,
    write_weights,
    write_whole,
)
from tests.models.importing.saver_writer import saver_arrays
from tests.models.importing.tensor_bundle_writer import (
    GRAPH,
    STRING,
    VALUE,
    entry_message,
    field,
    header,
    lstm_arrays,
    string_tensor,
    table,
)

CPU_S = 5.0
MEMORY_BYTES = 4 * 1024**3
MAX_FILE_BYTES = 1 << 30
ALLOWED = (BadCheckpoint, Validation, TooLarge, MemoryError)
NUMBERS = [0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1]


def graph_of(arrays, names=None):
    """An object graph in which each array, with a name, is an attribute of its own object."""
    nodes, index = [[]], {(): 0}
    attributes = {}
    for key in arrays:
        path = ()
        for part in key.split("/"):
            parent, path = path, (*path, part)
            if path not in index:
                index[path] = len(nodes)
                nodes.append([])
                nodes[index[parent]].append((part, index[path]))
        attributes[index[path]] = key
    out = b""
    for i, children in enumerate(nodes):
        node = b"".join(
            field(1, field(1, child) + field(2, name.encode())) for name, child in children
        )
        if i in attributes:
            name, key = (names or {}).get(attributes[i], ""), attributes[i] + VALUE
            node += field(2, field(2, name.encode()) + field(3, key.encode()))
        out += field(1, node)
    return out


def bundle(change, arrays, graph=None, folder="", name="ckpt_1"):
    """The files of a TensorFlow checkpoint."""
    data, entries = b"", {b"": change("header", header())}
    if graph is not None:
        content, crc = string_tensor(change("graph", graph))
        entry = entry_message((), 0, len(content), crc, STRING)
        entries[GRAPH.encode()] = change("graph entry", entry)
        data = content
    for key, array in arrays.items():
        content = np.ascontiguousarray(array, "<f4").tobytes()
        entry = entry_message(array.shape, len(data), len(content), masked_crc32c(content))
        stored = key.encode() if graph is None else (key + VALUE).encode()
        entries[change("key", stored)[:4000]] = change("entry", entry)
        data += content
    return {
        f"{folder}{name}.index": table(sorted(entries.items())),
        f"{folder}{name}.data-00000-of-00001": data,
    }


def tensorflow_checkpoint(change):
    state = change("state", b'model_checkpoint_path: "ckpt_1"\n')
    arrays = lstm_arrays()
    return {**bundle(change, arrays, graph_of(arrays)), "checkpoint": state}, "."


def tensorflow_saver(change):
    state = change("state", b'model_checkpoint_path: "/home/me/ckpt_1"\n')
    return {**bundle(change, saver_arrays("gru_cell")), "checkpoint": state}, "."


def saved_model(change):
    arrays = lstm_arrays()
    graph = graph_of(arrays, dict(zip(arrays, NAMES, strict=True)))
    files = bundle(change, arrays, graph, "variables/", "variables")
    config = change("config", json.dumps(SEQUENTIAL).encode())
    metadata = field(1, field(2, 0) + field(3, b"root") + field(5, config))
    return {**files, "keras_metadata.pb": metadata, "saved_model.pb": b"\x08\x01"}, "."


def exported_model(change):
    arrays = {f"variables/{i}": array for i, array in enumerate(lstm_arrays().values())}
    files = bundle(change, arrays, graph_of(arrays), "variables/", "variables")
    return {**files, "saved_model.pb": change("graph", field(2, field(7, field(1, b""))))}, "."


def keras_archive(change):
    contents = {
        "metadata.json": b'{"keras_version": "3.15.1"}',
        "config.json": json.dumps(SEQUENTIAL).encode(),
        "model.weights.h5": HDF5["keras_3"],
    }
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name, change(name, content))
    return {"m.keras": archive.getvalue()}, "m.keras"


def sharded(change):
    index = {"weight_map": {"/layers/a": "m_00000.weights.h5", "/layers/b": ["m_00001.weights.h5"]}}
    return {
        "m.weights.json": change("index", json.dumps(index).encode()),
        "m_00000.weights.h5": change("shard", HDF5["shard_0"]),
        "m_00001.weights.h5": change("shard", HDF5["shard_1"]),
    }, "m.weights.json"


def hdf5(kind, **beside):
    return lambda change: ({"m.h5": HDF5[kind], **beside}, "m.h5") if change else None


def hdf5_and_json(change):
    config = change("config", json.dumps(SEQUENTIAL).encode())
    return {"m.h5": HDF5["weights"], "m.json": config}, "m.h5"


def safetensors(change):
    content, places = b"", {}
    for name, shape in {
        "embedding.weight": (3, 2),
        "lstm.weight_ih_l0": (8, 2),
        "lstm.weight_hh_l0": (8, 2),
        "lstm.bias_ih_l0": (8,),
        "lstm.bias_hh_l0": (8,),
        "fc.weight": (3, 2),
        "fc.bias": (3,),
    }.items():
        end = len(content) + 4 * int(np.prod(shape))
        places[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(content), end]}
        content += np.linspace(-1, 1, int(np.prod(shape)), dtype="<f4").tobytes()
    text = change("header", json.dumps(places).encode())
    return {"m.safetensors": struct.pack("<Q", len(text)) + text + content}, "m.safetensors"


def other_file(change):
    content = change("file", b'(dp0\nS"a"\np1\nI1\ns.version https://git-lfs\n<html>\x80\x04}q\x00')
    return {"m": content}, "m"


def _hdf5_contents(folder):
    """The content of each kind of HDF5 file, made once."""
    paths = {
        "whole": write_whole(folder / "whole.h5"),
        "keras_3": write_keras_3_weights(folder / "keras_3.h5"),
    }
    for name in ("weights", "shard_0", "shard_1"):
        paths[name] = folder / f"{name}.h5"
    with h5py.File(paths["weights"], "w") as file:
        write_weights(file)
    with h5py.File(paths["keras_3"]) as source:
        for i, layers in enumerate((("embedding", "lstm"), ("dense",))):
            with h5py.File(paths[f"shard_{i}"], "w") as shard:
                for layer in layers:
                    source.copy(f"layers/{layer}", shard.require_group("layers"))
    return {name: path.read_bytes() for name, path in paths.items()}


NAMES = ["embedding/embeddings", "lstm/lstm_cell/kernel", "lstm/lstm_cell/recurrent_kernel",
         "lstm/lstm_cell/bias", "dense/kernel", "dense/bias"]  # fmt: skip
HDF5 = {}
FORMATS = {
    "tensorflow_checkpoint": tensorflow_checkpoint,
    "tensorflow_saver": tensorflow_saver,
    "saved_model": saved_model,
    "exported_model": exported_model,
    "keras_archive": keras_archive,
    "sharded": sharded,
    "hdf5_whole": hdf5("whole"),
    "hdf5_weights": hdf5("weights"),
    "hdf5_keras_3": hdf5("keras_3"),
    "hdf5_and_json": hdf5_and_json,
    "safetensors": safetensors,
    "other_file": other_file,
}


def damaged(rng, content):
    """Damage bytes in one to four places: bits, numbers, cuts, copies, or JSON's values."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        place, length = rng.randrange(len(content) + 1), rng.choice([1, 1, 2, 4, 8, 40])
        kind = rng.randrange(7)
        if kind == 0 and place < len(content):
            content[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            size = rng.choice([1, 2, 4, 8])
            number = rng.choice(NUMBERS) & (256**size - 1)
            content[place : place + size] = number.to_bytes(size, "little")
        elif kind == 2:
            del content[place : place + length]
        elif kind == 3 and rng.random() < 0.3:
            del content[place:]
        elif kind == 4:
            content[place:place] = content[place : place + length] * rng.choice([1, 2, 50])
        elif kind == 5:
            other = rng.randrange(len(content) + 1)
            content[place : place + length] = content[other : other + length]
        elif kind == 6:
            token = rng.choice([b"null", b"-1", b"1e999", b"[]", b"{}", b'""', b"9" * 30, b"true"])
            content[place : place + rng.choice([0, 1, 3])] = token
    return bytes(content)


def mutant(make, rng):
    """Files and source of a format in which one part or one file is damaged."""
    parts = 0

    def count(_name, content):
        nonlocal parts
        parts += 1
        return content

    files, _ = make(count)
    chosen = rng.randrange(parts + len(files))
    parts = 0

    def change(_name, content):
        nonlocal parts
        parts += 1
        return damaged(rng, content) if parts - 1 == chosen else content

    files, source = make(change)
    if chosen >= parts:
        name = list(files)[chosen - parts]
        files[name] = damaged(rng, files[name])
    return files, source


def outcome(folder):
    """Import what is in the folder; return what it ends in."""

    def read(source):
        with ImportFolder(folder, MAX_FILE_BYTES) as files:
            checkpoint = read_checkpoint(files, PurePosixPath(source))
            assumptions = Assumptions({}, checkpoint.keras_version)
            spec, layers = architecture_of(checkpoint, assumptions)
            convert(spec, layers, assumptions)

    return read


def main(name, seed, first, last, folder):
    work = folder / "work"
    (work / "variables").mkdir(parents=True, exist_ok=True)
    HDF5.update(_hdf5_contents(folder))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    outcomes, read = Counter(), outcome(work)
    progress = (folder / "progress").open("w")
    for number in range(first, last):
        progress.seek(0)
        progress.write(f"{number:12d}")
        progress.flush()
        rng = random.Random(f"{name} {seed} {number}")
        files, source = mutant(FORMATS[name], rng)
        for file, content in files.items():
            (work / file).write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        try:
            read(source)
            outcomes["read"] += 1
        except ALLOWED as error:
            outcomes[type(error).__name__] += 1
        except BaseException as error:
            raise AssertionError(f"mutant {number} of {name}, seed {seed}") from error
        signal.setitimer(signal.ITIMER_PROF, 0)
    sys.stdout.write(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5]))
