"""What a trained model is stored with: its bundle, and everything about how it came about."""

import platform
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

from service.models.bundle import BundleMetadata, Provenance, build_files
from service.models.parity import measure
from service.models.spec import ModelRef
from service.models.tokenizer import Tokenizer
from service.training.corpus import Corpus
from service.training.job import TrainJobSpec
from service.training.loss_plot import loss_curve
from service.training.sample import TEMPERATURE

if TYPE_CHECKING:
    from service.training.trainer import Trained

CURVE = "loss.png"


@dataclass(frozen=True, slots=True)
class Publication:
    """A trained model that is ready to be stored under any version."""

    trained: "Trained"
    tokenizer: Tokenizer
    record: BundleMetadata
    curve: bytes  # PNG

    @classmethod
    def of(
        cls,
        order: TrainJobSpec,
        job_id: str,
        corpus: Corpus,
        vocabulary: tuple[str, ...],
        trained: "Trained",
    ) -> Self:
        """Choose the precision by what it costs, and write down all that is known. Seconds."""
        from service.training.trainer import framework_versions  # noqa: PLC0415 (TensorFlow)

        assert trained.weights is not None
        verdict = measure(trained.spec, trained.weights, "auto")
        record = BundleMetadata(
            precision=verdict.precision,
            precision_reason=verdict.reason,
            source=Provenance(format="trained", files={"corpus": corpus.sha256}),
            parity=verdict.parity,
            generation_defaults={"do_sample": True, "temperature": TEMPERATURE},
            training={
                "job": job_id,
                "order": order.to_json(),
                "corpus_sha256": corpus.sha256,
                "corpus_characters": len(corpus.text),
                "corpus_bytes": corpus.n_bytes,
                "precision": trained.precision,
                "best": None if trained.best is None else asdict(trained.best),
                "history": [asdict(validation) for validation in trained.history],
                "steps": trained.step,
                "ending": trained.ending,
                "seconds": round(trained.elapsed_s, 1),
                "python": platform.python_version(),
                **framework_versions(),
            },
        )
        return cls(trained, Tokenizer(vocabulary), record, loss_curve(trained.history))

    def files(self, ref: ModelRef) -> dict[str, bytes]:
        """The bundle's files, for `ModelStore.write`."""
        assert self.trained.weights is not None
        bundle = build_files(
            ref, self.trained.spec, self.trained.weights, self.tokenizer, self.record
        )
        return bundle | {CURVE: self.curve}
