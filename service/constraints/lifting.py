"""The automaton over tokens of any length, from the one over the characters of their texts.

A token moves a state by its whole text. Tokens that move every state alike are one class, so the
table stays small: the words of a vocabulary are mostly alike for a pattern.

Source: Willard & Louf, "Efficient Guided Generation for Large Language Models", 2023, section 4.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.constraints.constraint import DEAD, Constraint
from service.constraints.dfa import MAX_TABLE_BYTES, NOWHERE, distances
from service.constraints.intersection import pruned
from service.constraints.token_texts import TokenTexts
from service.constraints.token_walk import COLLISION, TOO_MUCH_WORK, reach, tabulate
from service.errors import Validation

MAX_STEPS = 250_000_000
"""The largest number of characters and tokens read: about two seconds."""

_Texts = tuple[
    npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]
]


def lift(
    automaton: Constraint, characters: Sequence[str], vocabulary: TokenTexts
) -> Constraint | None:
    """Return the constraint over tokens, without dead ends, from one over characters.

    `automaton` is over `characters`. Returns None if the tokens can spell no text of it. Raises
    Validation if it takes too many steps or the table is too large.
    """
    classes = dict(zip(map(ord, characters), map(chr, automaton.token_class.tolist()), strict=True))
    spellings = [
        None
        if text is None
        else (text.translate(classes), vocabulary.first(text).translate(classes))
        for text in vocabulary.texts
    ]
    ordered = sorted({spelling for spelling in spellings if spelling is not None})
    units = {spelling: i for i, spelling in enumerate(ordered)}
    unit_of = [-1 if spelling is None else units[spelling] for spelling in spellings]
    texts, first = _sorted([text for text, _ in units]), _sorted([first for _, first in units])
    spelled = texts, first, bool(vocabulary.joiner)
    order, number, signature, outcome = reach(automaton.next_state, *spelled, MAX_STEPS)
    if outcome == TOO_MUCH_WORK:
        raise Validation(
            f"the constraint takes more than {MAX_STEPS} steps to compile for the model's "
            f"{len(vocabulary.texts)} tokens, which is the limit; use smaller bounds of "
            "repetition, fewer alternatives or fewer bad words"
        )
    names, unit_class = np.unique(np.append(np.uint64(0), signature), return_inverse=True)
    size = 4 * len(order) * len(names)
    if size > MAX_TABLE_BYTES:
        raise Validation(
            f"the constraint needs a table of {len(order)} states and {len(names)} kinds of "
            f"tokens, {size} bytes; {MAX_TABLE_BYTES} is the limit, so use smaller bounds of "
            "repetition, fewer alternatives or fewer bad words"
        )
    next_state = np.full((len(order), len(names)), DEAD, np.int32)
    outcome = tabulate(automaton.next_state, *spelled, (order, number), unit_class[1:], next_state)
    assert outcome != COLLISION, "two signatures of 64 bits are equal"
    distance = distances(next_state, automaton.distance[order] == 0)
    token_class = unit_class[np.array(unit_of) + 1].astype(np.int32)
    return pruned(token_class, next_state, distance, distance != NOWHERE)


def add_ends(constraint: Constraint, end_ids: Sequence[int]) -> Constraint:
    """Allow the tokens that end a text wherever it is complete; nothing follows them."""
    if not end_ids:
        return constraint
    n_states, n_classes = constraint.next_state.shape
    next_state = np.full((n_states + 1, n_classes + 1), DEAD, np.int32)
    next_state[:-1, :-1] = constraint.next_state
    next_state[:-1, -1] = np.where(constraint.distance == 0, n_states, DEAD)
    token_class = constraint.token_class.copy()
    token_class[list(end_ids)] = n_classes
    distance = np.append(constraint.distance, np.int32(0))
    return Constraint(token_class, next_state, distance, constraint.spec, tuple(end_ids))


def _sorted(texts: Sequence[str]) -> _Texts:
    """Return the different texts in order, and the number of each given one; see `reach`."""
    ordered = sorted(set(texts))
    number = {text: i for i, text in enumerate(ordered)}
    joined = "".join([*ordered, "\0"])  # an array has an entry at least
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.int32)
    begins = np.append(0, np.cumsum([len(text) for text in ordered], dtype=np.int64))
    shared = np.array([0, *map(_n_shared, ordered, ordered[1:])][: len(ordered)], np.int32)
    return codes, begins, shared, np.array([number[text] for text in texts], np.int64)


def _n_shared(a: str, b: str) -> int:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
