"""The article's model with random weights: 65 characters, Embedding 256, LSTM 1024."""

from pathlib import Path

import numpy as np

from service.models.bundle import BundleMetadata, Parity, Precision, Provenance, build_files
from service.models.cell import LayerSpec
from service.models.spec import ModelRef, ModelSpec, Weights
from service.models.store import ModelStore
from service.models.tokenizers.characters import CharacterTokenizer

VOCABULARY = tuple("\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
EMBEDDING_DIM, UNITS = 256, 1024
SPEC = ModelSpec(len(VOCABULARY), EMBEDDING_DIM, (LayerSpec("lstm", UNITS),))


def seed_weights() -> Weights:
    """Return Glorot-uniform kernels, the article's initialisation."""
    rng = np.random.default_rng(2015)
    arrays = {}
    for name, shape in SPEC.weight_shapes.items():
        limit = np.sqrt(6.0 / sum(shape)) if len(shape) > 1 else 0.0
        arrays[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
    return Weights(SPEC, arrays)


def write_seed_model(store: Path, precision: Precision) -> ModelRef:
    """Write the model to a store as `seed-<precision>@1`."""
    ref = ModelRef(f"seed-{precision}", 1)
    record = BundleMetadata(
        precision=precision,
        precision_reason="requested by the benchmark",
        source=Provenance(format="random", files={}),
        parity=Parity(tokens=0, largest_logit_difference={}),
    )
    files = build_files(ref, SPEC, seed_weights(), CharacterTokenizer(VOCABULARY), record)
    ModelStore(store).write(ref, files)
    return ref
