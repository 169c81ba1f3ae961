"""Small models in a store."""

from pathlib import Path

import numpy as np

from service.models.bundle import BundleMetadata, Parity, Precision, Provenance, build_files
from service.models.cell import LayerSpec
from service.models.spec import ModelRef, ModelSpec, Weights
from service.models.store import ModelStore
from service.models.tokenizers.characters import CharacterTokenizer

TINY = ModelSpec(3, None, (LayerSpec("lstm", 2),))


def put_model(
    store: Path,
    name: str,
    spec: ModelSpec = TINY,
    weight: float = 0.0,
    tokens: str = "abc",
    version: int = 1,
) -> ModelRef:
    """Store a version with every weight the same."""
    arrays = {n: np.full(s, weight, np.float32) for n, s in spec.weight_shapes.items()}
    record = BundleMetadata(
        precision=Precision.FLOAT32,
        precision_reason="made by a test",
        source=Provenance(format="test", files={}),
        parity=Parity(tokens=0, largest_logit_difference={}),
    )
    ref, weights, tokenizer = (
        ModelRef(name, version),
        Weights(spec, arrays),
        CharacterTokenizer(tokens),
    )
    ModelStore(store).write(ref, build_files(ref, spec, weights, tokenizer, record))
    return ref
