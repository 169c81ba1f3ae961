"""A training in the terminal: a text file in, a stored model out, no server and no queue."""

import hashlib
import json
import shutil
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from service.errors import OutOfTime
from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.training.corpus import Corpus
from service.training.events import ProgressEvent as Pace
from service.training.events import SampleEvent, TrainEvent, ValidationEvent
from service.training.job import TrainJobSpec, check_fits
from service.training.publication import CURVE, Publication
from service.training.trainer import train


def train_text(order: TrainJobSpec, corpus: Corpus, store: ModelStore, folder: Path) -> ModelRef:
    """Train on a text and store the model; say on the way how it does.

    Blocks. Broken off, the same command goes on from the last checkpoint in `folder`.

    Raises:
        Validation, BadCheckpoint, UnknownCharacter, ModelNotFound, OutOfTime.

    """
    console = Console(stderr=True)
    vocabulary, initial = corpus.vocabulary, None
    if order.initial_model is not None:
        bundle = store.read(ModelRef.parse(order.initial_model))
        vocabulary, initial = bundle.tokenizer.tokens, bundle.weights
    check_fits(order, len(vocabulary), len(corpus.text))
    asked = json.dumps([order.to_json(), corpus.sha256], sort_keys=True)
    name = hashlib.sha256(asked.encode()).hexdigest()[:16]
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("compiling", total=None)

        def report(event: TrainEvent) -> None:
            match event:
                case Pace():
                    text = f"{event.training_nats:.4f} nats, {event.characters_per_second:,.0f}/s"
                    bar.update(task, description=text, completed=event.step, total=event.n_steps)
                case ValidationEvent():
                    console.print(event.summary, highlight=False, markup=False, soft_wrap=True)
                case SampleEvent():
                    console.print(
                        f"  {event.text[:100]!r}", highlight=False, markup=False, soft_wrap=True
                    )

        trained = train(
            corpus,
            vocabulary,
            order.recipe,
            folder / name,
            initial=initial,
            report=report,
            should_stop=lambda: False,
        )
        if trained.weights is None:
            raise OutOfTime("nothing was judged before the time was up: raise max_seconds")
        bar.update(task, description="done", completed=trained.n_steps, total=trained.n_steps)
    publication = Publication.of(order, name, corpus, vocabulary, trained)
    ref = ModelRef(order.name, store.next_version(order.name))
    path = store.write(ref, publication.files(ref))
    shutil.rmtree(folder / name)
    stored = f"{ref} is stored; its losses are drawn in {path / CURVE}"
    console.print(stored, highlight=False, markup=False, soft_wrap=True)
    return ref
