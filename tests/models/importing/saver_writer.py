"""Checkpoints of tf.train.Saver, with the names of char-rnn-tensorflow, without TensorFlow."""

import numpy as np

from service.models.importing.readers.crc32c import masked_crc32c
from tests.models.importing.tensor_bundle_writer import entry_message, header, table

TOKENS, EMBEDDING, UNITS = 7, 5, 6
CHAR_RNN = "rnnlm/multi_rnn_cell"


def saver_arrays(cell, inputs=EMBEDDING, seed=3):
    """Two cells, an embedding and a softmax."""
    shapes = {"embedding": (TOKENS, EMBEDDING)}
    for i, width in enumerate((inputs, UNITS)):
        path = f"{CHAR_RNN}/cell_{i}/{cell}"
        if cell == "gru_cell":
            shapes[f"{path}/gates/kernel"] = (width + UNITS, 2 * UNITS)
            shapes[f"{path}/gates/bias"] = (2 * UNITS,)
            shapes[f"{path}/candidate/kernel"] = (width + UNITS, UNITS)
            shapes[f"{path}/candidate/bias"] = (UNITS,)
        else:
            shapes[f"{path}/kernel"] = (width + UNITS, 4 * UNITS)
            shapes[f"{path}/bias"] = (4 * UNITS,)
    shapes |= {"rnnlm/softmax_w": (UNITS, TOKENS), "rnnlm/softmax_b": (TOKENS,)}
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.8, shape).astype("f4") for name, shape in shapes.items()}


def write_saver(folder, arrays, name="model.ckpt-1000", state=None):
    """Write a checkpoint without an object graph; `state` is the path in the file `checkpoint`."""
    data, entries = b"", {b"": header()}
    for key, array in arrays.items():
        content = np.ascontiguousarray(array, "<f4").tobytes()
        entries[key.encode()] = entry_message(
            array.shape, len(data), len(content), masked_crc32c(content)
        )
        data += content
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.index").write_bytes(table(sorted(entries.items())))
    (folder / f"{name}.data-00000-of-00001").write_bytes(data)
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{state or name}"\n')
    return folder
