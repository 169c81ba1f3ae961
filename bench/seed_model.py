"""The article's model with random weights: 65 characters, Embedding 256, LSTM 1024."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from service.models.bundle import (
    MANIFEST,
    Manifest,
    Parity,
    Precision,
    Source,
    content_files,
    digest_of,
    sha256_hex,
)
from service.models.spec import Cell, LayerSpec, ModelRef, ModelSpec, Weights
from service.models.store import ModelStore
from service.models.tokenizer import Tokenizer, UnknownPolicy

VOCABULARY = tuple("\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
EMBEDDING_DIM, UNITS = 256, 1024
SPEC = ModelSpec(len(VOCABULARY), EMBEDDING_DIM, (LayerSpec(Cell.LSTM, UNITS),))


def seed_weights() -> Weights:
    """Glorot-uniform kernels, as the article initialises them."""
    rng = np.random.default_rng(2015)
    arrays = {}
    for name, shape in SPEC.weight_shapes.items():
        limit = np.sqrt(6.0 / sum(shape)) if len(shape) > 1 else 0.0
        arrays[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
    return Weights(SPEC, arrays)


def write_seed_model(store: Path, precision: Precision) -> ModelRef:
    """Put the model into a store as `seed-<precision>@1`."""
    ref = ModelRef(f"seed-{precision}", 1)
    weights, tokenizer = seed_weights(), Tokenizer(VOCABULARY)
    files = content_files(weights, tokenizer)
    manifest = Manifest(
        name=ref.name,
        version=ref.version,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        digest=digest_of(SPEC, UnknownPolicy.ERROR, files),
        architecture=SPEC.to_json(),
        precision=precision,
        precision_reason="asked for by the benchmark",
        source=Source(format="random", files={}),
        parity=Parity(tokens=0, largest_logit_difference={}),
        files={name: sha256_hex(content) for name, content in files.items()},
    )
    files[MANIFEST] = manifest.model_dump_json().encode()
    ModelStore(store).write(ref, files)
    return ref
