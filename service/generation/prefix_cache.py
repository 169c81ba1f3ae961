"""States after prompts, so that a prompt that begins like an earlier one is not read again.

A state is a pure function of the tokens before it, and the same to the last bit however they were
read, so a text that goes on from a kept state is the text that would have come without it.
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.models.step import State

BUDGET_BYTES = 64 * 1024 * 1024
SHORTEST = 64
"""Tokens of a prompt below which reading it is cheaper than remembering it."""

APART, MOST_OF_A_PROMPT = 256, 64
"""Tokens between two states of one prompt at least, and how many it may leave."""

_ENTRY_BYTES = 600  # of a state's arrays, its key and its place


class PrefixCache:
    """The states used latest, within a budget of bytes. Belongs to one event loop."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget_bytes, self.size_bytes = budget_bytes, 0
        self._states: OrderedDict[bytes, tuple[bytes, State]] = OrderedDict()  # with their scopes
        self._lengths: dict[bytes, Counter[int]] = {}  # of the prefixes in each scope

    def __len__(self) -> int:
        return len(self._states)

    def longest(self, scope: bytes, tokens: Sequence[int]) -> State | None:
        """The state furthest into the tokens, not beyond them."""
        lengths = sorted(n for n in self._lengths.get(scope, ()) if n <= len(tokens))
        found = None
        for key in _keys(scope, tokens, lengths):
            found = key if key in self._states else found
        if found is None:
            return None
        self._states.move_to_end(found)
        return self._states[found][1]

    def keep(self, scope: bytes, tokens: Sequence[int], states: Iterable[State]) -> None:
        """Keep states after the first `position` of these tokens; those not used longest go."""
        by_length = {state.position: state for state in states}
        lengths = sorted(by_length)
        for length, key in zip(lengths, _keys(scope, tokens, lengths), strict=True):
            if key not in self._states:
                state = by_length[length]
                self._states[key] = scope, state
                self._lengths.setdefault(scope, Counter())[length] += 1
                self.size_bytes += _size(state)
            self._states.move_to_end(key)
        while self.size_bytes > self._budget_bytes:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, (scope, state) = self._states.popitem(last=False)
        self.size_bytes -= _size(state)
        lengths = self._lengths[scope]
        lengths[state.position] -= 1
        if not lengths[state.position]:
            del lengths[state.position]
        if not lengths:
            del self._lengths[scope]


@dataclass(frozen=True, slots=True)
class ScopedPrefixCache:
    """A prefix cache as far as one model, and whoever asks it, may see."""

    cache: PrefixCache
    scope: bytes

    def scoped(self, *names: str) -> "ScopedPrefixCache":
        """A narrower scope, which shares nothing with any other."""
        parts = (hashlib.sha256(name.encode()).digest() for name in names)
        return ScopedPrefixCache(self.cache, b"".join((self.scope, *parts)))

    def longest(self, prompt: Sequence[int]) -> State | None:
        """The state furthest into a prompt that leaves its last token to be fed."""
        return self.cache.longest(self.scope, prompt[:-1])

    def keep(self, prompt: Sequence[int], trail: "PrefillSnapshots") -> None:
        """Keep a prompt's states."""
        self.cache.keep(self.scope, prompt, trail.states)


class PrefillSnapshots:
    """Of a prompt's states while it is read, the last and some before it, spread evenly."""

    def __init__(self, length: int) -> None:
        """`length` is that of the whole prompt."""
        self._apart = max(APART, length // MOST_OF_A_PROMPT)
        self.states: list[State] = []

    @property
    def last(self) -> State | None:
        """The one that is furthest into the prompt."""
        return self.states[-1] if self.states else None

    def add(self, state: State) -> None:
        """Take the next one; the one before it goes where it is near to one that stays."""
        before = self.states[-2].position if len(self.states) > 1 else 0
        if self.states and self.states[-1].position - before < self._apart:
            self.states.pop()
        self.states.append(state)


def _keys(scope: bytes, tokens: Sequence[int], lengths: Iterable[int]) -> Iterator[bytes]:
    """A key for the first so many tokens, for each of some rising lengths."""
    packed = np.asarray(tokens, np.int32).tobytes()
    digest = hashlib.blake2b(scope, digest_size=24)
    done = 0
    for length in lengths:
        digest.update(packed[4 * done : 4 * length])
        done = length
        yield digest.copy().digest()


def _size(state: State) -> int:
    return sum(array.nbytes for array in state.arrays) + _ENTRY_BYTES
