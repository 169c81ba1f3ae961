"""The model card of the demo model."""

from collections.abc import Sequence

from service.models.bundle import BundleMetadata
from service.models.spec import ModelRef, ModelSpec

CARD = "README.md"


def model_card(
    ref: ModelRef, spec: ModelSpec, record: BundleMetadata, samples: Sequence[str]
) -> str:
    """Write the card, in Markdown, with every number from the bundle's record."""
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
