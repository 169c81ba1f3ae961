"""Words that no text may have in it, as a constraint: each of its states may end.

Source: Aho & Corasick, "Efficient string matching: an aid to bibliographic search", 1975.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.constraints.constraint import DEAD, START, Constraint
from service.constraints.dfa import check_size

_NEVER_DRAWN, _IN_NO_WORD, _FIRST = range(3)  # classes; each character of a word has one of its own


def without(words: Sequence[str], vocabulary: Sequence[str | None]) -> Constraint:
    """The texts over a vocabulary in which none of some words is; some may be unable to go on.

    Raises:
        Validation: it would take more states than there may be.

    """
    alphabet = {token for token in vocabulary if token is not None and len(token) == 1}
    spelled = [word for word in words if alphabet.issuperset(word)]
    class_of = {c: k for k, c in enumerate(sorted(set("".join(spelled))), _FIRST)}
    children, is_bad = _trie([[class_of[c] for c in word] for word in spelled])
    n_classes = _FIRST + len(class_of)
    check_size(len(children), n_classes)
    next_state = _moves(children, is_bad, n_classes)
    token_class = [
        class_of.get(token, _IN_NO_WORD) if token in alphabet else _NEVER_DRAWN
        for token in vocabulary
    ]
    distance = np.zeros(len(children), np.int32)
    return Constraint(np.array(token_class, np.int32), next_state, distance)


def _trie(words: Sequence[Sequence[int]]) -> tuple[list[dict[int, int]], npt.NDArray[np.bool_]]:
    """The beginnings of all words: by class what follows each, and which of them are words."""
    children: list[dict[int, int]] = [{}]
    ends = []
    for word in words:
        node = START
        for k in word:
            node = children[node].setdefault(k, len(children))
            if node == len(children):
                children.append({})
        ends.append(node)
    is_word = np.zeros(len(children), np.bool_)
    is_word[ends] = True
    return children, is_word


def _moves(
    children: Sequence[dict[int, int]], is_word: npt.NDArray[np.bool_], n_classes: int
) -> npt.NDArray[np.int32]:
    """From every beginning to the longest one that the text then ends with; DEAD: to a word.

    Shape: (beginnings, classes) int32.
    """
    next_state = np.zeros((len(children), n_classes), np.int32)
    shorter = [START] * len(children)  # the longest beginning that this one ends with
    is_bad = is_word.copy()
    order = [START]
    for node in order:  # which grows: the shorter ones come first
        if node != START:
            next_state[node] = next_state[shorter[node]]
            is_bad[node] |= is_bad[shorter[node]]
        for k, child in children[node].items():
            shorter[child] = int(next_state[node, k])
            next_state[node, k] = child
            order.append(child)
    next_state[is_bad[next_state]] = DEAD
    next_state[:, _NEVER_DRAWN] = DEAD
    return next_state
