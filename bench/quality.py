"""The loss of the default recipe on a text: `python -m bench quality TEXT`.

All steps are HTTP requests: upload, train, publish, score. The last tenth of the text is for
validation: the trainer computes the loss of each of its characters, and the published model scores
the same characters in each precision.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.layers import PRECISIONS
from bench.machine import machine
from bench.seed_model import write_seed_model
from bench.server import server
from carousel_client import Client
from service.models.bundle import Precision
from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.training.recipe import Recipe

TIMEOUT_S = 120.0


def learnt(path: Path) -> dict[str, Any]:
    """Train on a file's text by the default recipe and return the results."""
    raw, about = path.read_bytes(), machine()
    with tempfile.TemporaryDirectory() as folder:
        store = ModelStore(Path(folder))
        write_seed_model(store.folder, Precision.INT8)  # a server without a model is not ready
        with server(store.folder, CAROUSEL_WORKERS="1") as port:
            client = Client(f"http://127.0.0.1:{port}", timeout_s=TIMEOUT_S)
            began = time.monotonic()
            ref, best = _train(client, raw)
            wall_s = time.monotonic() - began
            scores = _scores(client, ref, raw.decode())
        bundle = store.read(ModelRef.parse(ref))
    record: dict[str, Any] = bundle.manifest.training
    return {
        "machine": about,
        "text_sha256": record["corpus_sha256"],
        "characters": record["corpus_characters"],
        "parameters": bundle.spec.parameters,
        "recipe": {name: record["order"][name] for name in ("architecture", "training", "seed")},
        "precision": record["precision"],
        "validation_nats": round(best["validation_nats"], 4),
        "bits_per_character": round(best["bits_per_character"], 4),
        "trained_s": round(record["seconds"]),
        "submitted_to_published_s": round(wall_s),
        "load_after": round(os.getloadavg()[0], 1),
        "served": scores,
        "history": record["history"],
        "tensorflow": record["tensorflow"],
    }


def _train(client: Client, raw: bytes) -> tuple[str, dict[str, Any]]:
    """Return the published model and its best validation."""
    corpus = client.corpora.upload(raw, "quality")
    job = client.train_jobs.submit("quality", corpus.id)
    for event in client.train_jobs.events(job.id):
        if event.name == "validation":
            print(f"{event.body['validation_nats']:.4f} nats", file=sys.stderr, flush=True)
    job = client.train_jobs.get(job.id)
    assert job.model is not None, job.error
    assert job.best is not None
    return job.model, dict(job.best)


def _scores(client: Client, ref: str, text: str) -> dict[str, Any]:
    """Return the server's nats per character of the validation text, by precision."""
    share = Recipe().schedule.validation_fraction
    validation = text[round(len(text) * (1.0 - share)) :]
    scores = {}
    for precision in PRECISIONS:
        client.models.load(ref, precision.value)
        began = time.monotonic()
        score = client.score(validation, model=ref)
        scores[precision.value] = {
            "nats_per_character": round(score.nats / score.characters, 4),
            "characters": score.characters,
            "s": round(time.monotonic() - began, 1),
        }
    return scores


if __name__ == "__main__":
    print(json.dumps(learnt(Path(sys.argv[1]))))
