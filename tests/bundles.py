"""Small models in a store."""

from pathlib import Path

import numpy as np

from service.models.bundle import BundleMetadata, Parity, Precision, Provenance, build_files
from service.models.cell import LayerSpec
from service.models.spec import ModelRef, ModelSpec, Weights
from service.models.store import ModelStore
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.tokenizer import Tokenizer

TINY = ModelSpec(3, None, (LayerSpec("lstm", 2),))


def put_model(
    store: Path,
    name: str,
    spec: ModelSpec = TINY,
    weight: float = 0.0,
    tokens: str = "abc",
    version: int = 1,
    *,
    tokenizer: Tokenizer | None = None,
    random_seed: int | None = None,
) -> ModelRef:
    """Store a version with every weight the same, or with random weights of a seed.

    `tokenizer` replaces the one of the characters in `tokens`.
    """
    if random_seed is None:
        arrays = {n: np.full(s, weight, np.float32) for n, s in spec.weight_shapes.items()}
    else:
        random = np.random.default_rng(random_seed)
        arrays = {
            n: random.normal(0.0, 1.0, s).astype(np.float32) for n, s in spec.weight_shapes.items()
        }
    record = BundleMetadata(
        precision=Precision.FLOAT32,
        precision_reason="made by a test",
        source=Provenance(format="test", files={}),
        parity=Parity(tokens=0, largest_logit_difference={}),
    )
    ref, weights = ModelRef(name, version), Weights(spec, arrays)
    files = build_files(ref, spec, weights, tokenizer or CharacterTokenizer(tokens), record)
    ModelStore(store).write(ref, files)
    return ref
