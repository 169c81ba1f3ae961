"""Train the bundled model again and write its bundle: `python -m service.training.demo`."""

import argparse
import json
import math
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from service.errors import Validation
from service.models.bundle import BundleMetadata, build_files, sha256_hex
from service.models.reference import ReferenceModel
from service.models.spec import ModelRef, ModelSpec, Weights
from service.models.store import ModelStore
from service.models.tokenizers.characters import CharacterTokenizer
from service.training.corpus import Corpus, Tokens
from service.training.demo_corpus import ALPHABET, topics_text
from service.training.events import TrainEvent, ValidationEvent
from service.training.publication import trained_metadata
from service.training.recipe import Architecture, Hyperparameters, Recipe
from service.training.sample import sample_text
from service.training.trainer import framework_versions, train

PROMPTS = ("The with statement ", "class ")
SAMPLE_CHARACTERS = 400
CARD = "README.md"

# Chosen by the topics' names, not by a loss: in this order the last ones are `typesmapping`,
# `comparisons` and nine short ones, a fair sample of the text.
ORDER_SEED = 3
VALIDATION_SHARE = 0.06
RECIPE = Recipe(
    Architecture(embedding_dim=64, units=448, layers=1, dropout=0.3),
    Hyperparameters(
        epochs=22,
        batch_size=32,
        sequence_length=64,
        learning_rate=3e-3,
        validation_fraction=VALIDATION_SHARE,
        validations_per_epoch=1,
        embedding_dropout=0.1,
        recurrent_weight_drop=0.3,
    ),
)


def main() -> None:
    """Train, or use the weights of an earlier run, and store the bundle."""
    parser = argparse.ArgumentParser(prog="python -m service.training.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("model_store/demo/1"))
    parser.add_argument("--trained", type=Path, help="weights of an earlier run: do not train")
    arguments = parser.parse_args()
    out, weights_file, text = arguments.out, arguments.trained, topics_text(ORDER_SEED)
    if weights_file is None:
        # Training takes minutes, the bundle seconds: it can be made again from this file.
        weights_file = Path("build/demo.safetensors")
        weights_file.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            weights_file.write_bytes(trained_file(text, RECIPE, Path(folder)))
    ref = ModelRef(out.parent.name, int(out.name))
    files = bundle_files(ref, text, weights_file)
    store = ModelStore(out.parent.parent)
    # A served version never changes; this one is in the developer's own tree.
    if ref in store.refs():
        store.delete(ref)
    print(f"{store.write(ref, files)}: {sum(map(len, files.values())):,} bytes")


def trained_file(text: str, recipe: Recipe, folder: Path) -> bytes:
    """Train, and return the best weights as safetensors with their provenance as metadata."""
    corpus = Corpus.of(text)
    trained = train(
        corpus, ALPHABET, recipe, folder, report=_print_validation, should_stop=lambda: False
    )
    if trained.weights is None or trained.best is None:
        raise Validation("no validation was reached: raise epochs")
    training = {
        "corpus": "pydoc_data.topics",
        "corpus_sha256": corpus.sha256,
        "python": platform.python_version(),
        "characters": len(corpus.text),
        "validation_share": recipe.schedule.validation_fraction,
        "best_epoch": round(trained.best.epoch, 2),
        "seconds": round(trained.elapsed_s),
        "recipe": recipe.to_json(),
        **framework_versions(),
    }
    metadata = {
        "training": json.dumps(training),
        "architecture": json.dumps(trained.spec.to_json()),
    }
    return save(dict(trained.weights), metadata)


def _print_validation(event: TrainEvent) -> None:
    if isinstance(event, ValidationEvent):
        print(event.summary, flush=True)


def bundle_files(ref: ModelRef, text: str, weights_file: Path) -> dict[str, bytes]:
    """Make the bundle of a `trained_file`. Raises Validation where that is of another text."""
    with safe_open(weights_file, "numpy") as file:
        metadata = {name: json.loads(value) for name, value in file.metadata().items()}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    spec = ModelSpec.from_json(metadata["architecture"])
    weights, tokenizer = Weights(spec, arrays), CharacterTokenizer(ALPHABET)
    training, sha256 = metadata["training"], sha256_hex(text.encode())
    if training["corpus_sha256"] != sha256:
        raise Validation(
            f"{weights_file} was trained on the topics of Python {training['python']}, "
            f"not on those of Python {platform.python_version()}: train again"
        )
    reference = ReferenceModel(spec, weights)
    split = Corpus.of(text).split(ALPHABET, VALIDATION_SHARE)
    nats = _nats_per_character(reference, split.validation)
    training["validation_nats"] = round(nats, 4)
    training["validation_bits_per_character"] = round(nats / math.log(2), 4)
    record = trained_metadata(spec, weights, {"pydoc_data.topics": sha256}, training)
    samples = [
        prompt + sample_text(reference, tokenizer, tokenizer.encode(prompt), SAMPLE_CHARACTERS)
        for prompt in PROMPTS
    ]
    card = _model_card(ref, spec, record, samples)
    return build_files(ref, spec, weights, tokenizer, record) | {CARD: card.encode()}


def _nats_per_character(reference: ReferenceModel, tokens: Tokens) -> float:
    """The loss over the text from the zero state; its first character is given."""
    logits = reference.run(tokens[:-1].tolist())  # (characters - 1, vocabulary)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_totals = np.log(np.exp(shifted).sum(axis=1))
    return float((log_totals - shifted[np.arange(len(shifted)), tokens[1:]]).mean())


def _model_card(
    ref: ModelRef, spec: ModelSpec, record: BundleMetadata, samples: Sequence[str]
) -> str:
    """Write the model card, in Markdown, with every number from the bundle's record."""
    training = record.training
    shown = "\n\n".join(f"```text\n{sample}\n```" for sample in samples)
    temperature = record.generation_defaults["temperature"]
    return f"""# {ref}

A small character model of Python's language reference. Carousel bundles it so that the first
command has a model to generate with; it demonstrates the server and answers no questions.

| | |
|---|---|
| architecture | `{spec.summary}` |
| parameters | {spec.parameters:,} |
| state of one conversation | {spec.state_bytes:,} bytes |
| **validation** | **{training["validation_bits_per_character"]} bits per character** \
({training["validation_nats"]} nats) |
| trained | {training["seconds"]} s, best epoch {training["best_epoch"]}, \
TensorFlow {training["tensorflow"]}, Keras {training["keras"]} |
| served as | {record.precision}, since {record.precision_reason} |

## Text

`pydoc_data.topics` of CPython {training["python"]}, the texts of `help("assignment")` and the like.
`service/training/demo_corpus.py` makes {training["characters"]:,} characters of it:
topics that repeat sections of longer ones are left out, the others are put one after another in a
shuffled order, and typographic quotes and dashes are written in ASCII.
The vocabulary is a line break and printable ASCII; any other character in a prompt is an error.

The last {training["validation_share"]:.0%} of the text are for validation.
The model was not trained on them; the bits above are its loss on them, from the zero state, in
float64. The best epoch was chosen by them, so the number is slightly optimistic.

sha256 of the text: `{training["corpus_sha256"]}`

The text is part of the Python documentation: © 2001 and later, Python Software Foundation, under
the [PSF License Version 2](https://docs.python.org/3/license.html); its code examples are also
under the Zero Clause BSD licence.

## Samples

Sampled at temperature {temperature}, not selected.

{shown}

## Limits

English, Python and reStructuredText of one book; nothing else. It spells, indents and closes
brackets, and its statements about Python are often wrong: do not use it as documentation. The text
is short, so the model may repeat whole sentences of it.

## Train it again

```console
make demo-model
```

Another machine gives similar numbers, not the same: TensorFlow's threads add in any order. The
text differs by a few sentences between patch versions of Python.
"""


if __name__ == "__main__":
    main()
