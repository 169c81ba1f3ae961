"""Fine-tuning of a stored model, which keeps its architecture and its vocabulary."""

from collections.abc import Iterable, Mapping
from typing import Any

from service.errors import Validation
from service.models.bundle import Bundle
from service.training.recipe import Architecture


def architecture_of(
    model: Bundle, requested: Mapping[str, Any], characters: Iterable[str]
) -> Architecture:
    """The architecture of a model, for a text of these characters; `requested` may repeat it.

    Raises:
        Validation: another one is requested, the model is of a kind that is not trained here, or
            its vocabulary does not cover the text.

    """
    ref, spec = model.ref, model.spec
    if spec.embedding_dim is None:
        raise Validation(
            f"{ref} reads one-hot characters; only a model with an embedding is trained here"
        )
    first = spec.layers[0]
    own = {
        "cell": str(first.cell),
        "embedding_dim": spec.embedding_dim,
        "units": first.units,
        "layers": len(spec.layers),
    }
    for name, value in own.items():
        if name in requested and requested[name] != value:
            raise Validation(
                f"`{name}` is {requested[name]!r}, but {ref} has {value!r}; leave it out"
            )
    architecture = Architecture(**{**requested, **own})
    if architecture.spec(spec.vocabulary_size) != spec:
        raise Validation(f"{ref} is {spec.summary} of a kind that is served but not trained here")
    missing = sorted(set(characters) - set(model.tokenizer.tokens))
    if missing:
        raise Validation(
            f"the text has {len(missing)} characters that {ref} does not know, "
            f"{''.join(missing[:8])!r} among them; an initial model's vocabulary must cover it"
        )
    return architecture
