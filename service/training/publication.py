"""The bundle of a trained model: its weights and the record of its training."""

import platform
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from service.models.bundle import BundleMetadata, Provenance, build_files
from service.models.parity import measure
from service.models.spec import ModelRef, ModelSpec, Weights
from service.models.tokenizers.characters import CharacterTokenizer
from service.training.corpus import Corpus
from service.training.job_spec import TrainJobSpec
from service.training.loss_plot import loss_curve
from service.training.result import Trained
from service.training.sample import TEMPERATURE
from service.training.trainer import framework_versions

CURVE = "loss.png"


def package(
    spec: TrainJobSpec, job_id: str, corpus: Corpus, vocabulary: tuple[str, ...], trained: Trained
) -> Callable[[ModelRef], dict[str, bytes]]:
    """Choose the precision to serve with, by its cost, and record the training. Takes seconds.

    Returns the function from the model's name to the files of its bundle, for `ModelStore.write`.
    """
    weights, tokenizer = trained.weights, CharacterTokenizer(vocabulary)
    assert weights is not None
    training = {
        "job": job_id,
        "order": spec.to_json(),
        "corpus_sha256": corpus.sha256,
        "corpus_characters": len(corpus.text),
        "corpus_bytes": corpus.n_bytes,
        "precision": trained.precision,
        "recurrence": trained.recurrence.get("name", "own"),
        "recurrence_gain": trained.recurrence.get("gain"),
        "trained_on": trained.recurrence.get("device") or "processor",
        "best": None if trained.best is None else asdict(trained.best),
        "history": [asdict(validation) for validation in trained.history],
        "steps": trained.step,
        "ending": trained.stop_reason,
        "seconds": round(trained.elapsed_s, 1),
        "python": platform.python_version(),
        **framework_versions(),
    }
    record = trained_metadata(trained.spec, weights, {"corpus": corpus.sha256}, training)
    curve = loss_curve(trained.history)

    def files(ref: ModelRef) -> dict[str, bytes]:
        return build_files(ref, trained.spec, weights, tokenizer, record) | {CURVE: curve}

    return files


def trained_metadata(
    spec: ModelSpec, weights: Weights, sources: dict[str, str], training: dict[str, Any]
) -> BundleMetadata:
    """The metadata of a trained model's bundle; `sources` are sha256 by name. Takes seconds."""
    verdict = measure(spec, weights, "auto")
    return BundleMetadata(
        precision=verdict.precision,
        precision_reason=verdict.reason,
        source=Provenance(format="trained", files=sources),
        parity=verdict.parity,
        generation_defaults={"do_sample": True, "temperature": TEMPERATURE},
        training=training,
    )
