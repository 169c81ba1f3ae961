"""Token ids that clients name, checked against a model's vocabulary."""

from collections.abc import Iterable, Mapping

from service.errors import Validation


def logit_bias(biases: Mapping[str, float], vocabulary: int) -> tuple[tuple[int, float], ...]:
    """The pairs that a JSON object of biases by token id is, without those that say nothing.

    Raises:
        Validation: a name is no id.

    """
    pairs = []
    for name, bias in biases.items():
        if not (name.isascii() and name.isdigit() and len(name) < 9 and int(name) < vocabulary):
            raise Validation(
                f"Input validation error: `logit_bias` names the token {name[:40]!r}; "
                f"the model's ids go from 0 to {vocabulary - 1}",
                "logit_bias",
            )
        if bias:
            pairs.append((int(name), bias))
    return tuple(pairs)


def token_ids(ids: Iterable[int], vocabulary: int, field: str) -> tuple[int, ...]:
    """The ids. Raises Validation where one is none of the model's."""
    ids = tuple(ids)
    if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
        wrong = next(i for i in ids if not 0 <= i < vocabulary)
        raise Validation(
            f"`{field}` has the token {wrong}; the model's ids go from 0 to {vocabulary - 1}", field
        )
    return ids
