"""How well the default recipe learns a text: `python -m bench quality TEXT`.

The last tenth of the text is for validation; its loss is counted over every character of it.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.training.corpus import Corpus
from service.training.events import TrainEvent, Validation
from service.training.recipe import Recipe


def learnt(path: Path) -> dict[str, Any]:
    """Train on the file's text by the default recipe, and say what came of it."""
    from service.training.trainer import framework_versions, train  # noqa: PLC0415 (seconds)

    corpus, recipe = Corpus.decode(path.read_bytes()), Recipe()
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        trained = train(
            corpus,
            corpus.vocabulary,
            recipe,
            Path(folder),
            report=_say,
            should_stop=lambda: False,
        )
        processor_s = time.process_time() - began
    assert trained.best is not None
    return {
        "text_sha256": corpus.sha256,
        "characters": len(corpus.text),
        "architecture": trained.spec.summary,
        "parameters": trained.spec.parameters,
        "recipe": recipe.to_json(),
        "precision": trained.precision,
        "validation_nats": round(trained.best.validation_nats, 4),
        "bits_per_character": round(trained.best.bits_per_character, 4),
        "elapsed_s": round(trained.elapsed_s),
        "processor_s": round(processor_s),
        "load_after": round(os.getloadavg()[0], 1),
        "history": [asdict(validation) for validation in trained.history],
        **framework_versions(),
    }


def _say(event: TrainEvent) -> None:
    if isinstance(event, Validation):
        print(event.summary, file=sys.stderr, flush=True)


if __name__ == "__main__":
    print(json.dumps(learnt(Path(sys.argv[1]))))
