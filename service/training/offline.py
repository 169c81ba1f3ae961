"""Training in the terminal: a text file in, a stored model out, without a server."""

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from service.errors import OutOfTime
from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.training.corpus import Corpus
from service.training.events import ProgressEvent, SampleEvent, TrainEvent, ValidationEvent
from service.training.job_spec import TrainJobSpec
from service.training.publication import CURVE, package
from service.training.trainer import train


def train_text(spec: TrainJobSpec, corpus: Corpus, store: ModelStore, folder: Path) -> ModelRef:
    """Train on a text and store the model; print the progress. Blocks.

    The same call resumes from the last checkpoint in `folder`. Raises as `train`, and OutOfTime.
    """
    console = Console(stderr=True)
    print_line = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    vocabulary, initial = corpus.vocabulary, None
    if spec.initial_model is not None:
        bundle = store.read(ModelRef.parse(spec.initial_model))
        vocabulary, initial = bundle.tokenizer.tokens, bundle.weights
    identity = json.dumps([spec.to_json(), corpus.sha256], sort_keys=True)
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("compiling", total=None)

        def report(event: TrainEvent) -> None:
            match event:
                case ProgressEvent():
                    text = f"{event.training_nats:.4f} nats, {event.characters_per_second:,.0f}/s"
                    bar.update(task, description=text, completed=event.step, total=event.n_steps)
                case ValidationEvent():
                    print_line(event.summary)
                case SampleEvent():
                    print_line(f"  {event.text[:100]!r}")

        trained = train(
            corpus,
            vocabulary,
            spec.recipe,
            folder / name,
            initial=initial,
            report=report,
            should_stop=lambda: False,
        )
        if trained.weights is None:
            raise OutOfTime("no validation was reached in time: raise max_seconds")
        bar.update(task, description="done", completed=trained.n_steps, total=trained.n_steps)
    files = package(spec, name, corpus, vocabulary, trained)
    ref = ModelRef(spec.name, store.next_version(spec.name))
    path = store.write(ref, files(ref))
    shutil.rmtree(folder / name)
    print_line(f"{ref} is stored; {path / CURVE} shows its losses")
    return ref
