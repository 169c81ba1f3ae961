"""The bundle of a trained model: its weights and the record of its training."""

import platform
from collections.abc import Callable
from dataclasses import asdict

from service.models.bundle import BundleMetadata, Provenance, build_files
from service.models.parity import measure
from service.models.spec import ModelRef
from service.models.tokenizer import Tokenizer
from service.training.corpus import Corpus
from service.training.job_spec import TrainJobSpec
from service.training.loss_plot import loss_curve
from service.training.result import Trained
from service.training.sample import TEMPERATURE

CURVE = "loss.png"


def package(
    spec: TrainJobSpec, job_id: str, corpus: Corpus, vocabulary: tuple[str, ...], trained: Trained
) -> Callable[[ModelRef], dict[str, bytes]]:
    """Choose the precision to serve with, by its cost, and record the training. Takes seconds.

    Returns the function from the model's name to the files of its bundle, for `ModelStore.write`.
    """
    from service.training.trainer import framework_versions  # noqa: PLC0415 (TensorFlow)

    weights, tokenizer = trained.weights, Tokenizer(vocabulary)
    assert weights is not None
    verdict = measure(trained.spec, weights, "auto")
    record = BundleMetadata(
        precision=verdict.precision,
        precision_reason=verdict.reason,
        source=Provenance(format="trained", files={"corpus": corpus.sha256}),
        parity=verdict.parity,
        generation_defaults={"do_sample": True, "temperature": TEMPERATURE},
        training={
            "job": job_id,
            "order": spec.to_json(),
            "corpus_sha256": corpus.sha256,
            "corpus_characters": len(corpus.text),
            "corpus_bytes": corpus.n_bytes,
            "precision": trained.precision,
            "best": None if trained.best is None else asdict(trained.best),
            "history": [asdict(validation) for validation in trained.history],
            "steps": trained.step,
            "ending": trained.stop_reason,
            "seconds": round(trained.elapsed_s, 1),
            "python": platform.python_version(),
            **framework_versions(),
        },
    )
    curve = loss_curve(trained.history)

    def files(ref: ModelRef) -> dict[str, bytes]:
        return build_files(ref, trained.spec, weights, tokenizer, record) | {CURVE: curve}

    return files
