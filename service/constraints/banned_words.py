"""The constraint that bans words: an automaton in which a text may end in every state.

Source: Aho & Corasick, "Efficient string matching: an aid to bibliographic search", 1975.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.constraints.constraint import DEAD, START, Constraint
from service.constraints.dfa import most_states, too_large

_NEVER_SAMPLED, _IN_NO_WORD, _FIRST = range(3)  # classes; from _FIRST, one for each character


def ban_words(words: Sequence[str], vocabulary: Sequence[str | None]) -> Constraint:
    """Return the constraint to texts that contain none of some words; it may have dead ends.

    A word that the vocabulary cannot spell bans nothing. Raises Validation if there are too many.
    """
    alphabet = {token for token in vocabulary if token is not None and len(token) == 1}
    spelled = [word for word in words if alphabet.issuperset(word)]
    class_of = {c: k for k, c in enumerate(sorted(set("".join(spelled))), _FIRST)}
    children, is_bad = _trie([[class_of[c] for c in word] for word in spelled])
    n_classes = _FIRST + len(class_of)
    if len(children) > most_states(n_classes):
        raise too_large(n_classes)
    next_state = _moves(children, is_bad, n_classes)
    token_class = [
        class_of.get(token, _IN_NO_WORD) if token in alphabet else _NEVER_SAMPLED
        for token in vocabulary
    ]
    distance = np.zeros(len(children), np.int32)
    return Constraint(np.array(token_class, np.int32), next_state, distance)


def _trie(words: Sequence[Sequence[int]]) -> tuple[list[dict[int, int]], npt.NDArray[np.bool_]]:
    """Return the trie of all words: each node's children by class, and which nodes are words."""
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
    """Return the goto table of Aho & Corasick, (nodes, classes) int32; DEAD where a word ends.

    The next state is the longest prefix of a word that is a suffix of the text.
    """
    next_state = np.zeros((len(children), n_classes), np.int32)
    failure = [START] * len(children)  # the longest other prefix of a word that the node ends with
    is_bad = is_word.copy()
    order = [START]
    for node in order:  # grows in the loop: breadth first
        if node != START:
            next_state[node] = next_state[failure[node]]
            is_bad[node] |= is_bad[failure[node]]
        for k, child in children[node].items():
            failure[child] = int(next_state[node, k])
            next_state[node, k] = child
            order.append(child)
    next_state[is_bad[next_state]] = DEAD
    next_state[:, _NEVER_SAMPLED] = DEAD
    return next_state
