"""A cache of states after prompts, so that a known prefix of a prompt is not computed again.

A state is a pure function of the tokens before it, bit for bit, so the cache does not change any
completion.
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from service.models.step import State

MIN_PROMPT = 64  # tokens of a prompt that is cached; a shorter one is cheaper to compute

MIN_DISTANCE, MAX_STATES = 256, 64
"""Tokens between two states of one prompt at least, and states of one prompt at most."""

_ENTRY_BYTES = 600  # overhead of a state's arrays, key and entry


class PrefixCache:
    """A least-recently-used cache of states within a budget of bytes.

    Not thread-safe: one event loop only.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes, self.size_bytes = budget_bytes, 0
        self._states: OrderedDict[bytes, tuple[bytes, State]] = OrderedDict()  # (scope, state)
        self._lengths: dict[bytes, Counter[int]] = {}  # by scope: the lengths of the prefixes

    def __len__(self) -> int:
        return len(self._states)

    def longest(self, scope: bytes, tokens: Sequence[int]) -> State | None:
        """The state after the longest known prefix of the tokens, if there is one."""
        lengths = sorted(n for n in self._lengths.get(scope, ()) if n <= len(tokens))
        found = None
        for key in _keys(scope, tokens, lengths):
            found = key if key in self._states else found
        if found is None:
            return None
        self._states.move_to_end(found)
        return self._states[found][1]

    def keep(self, scope: bytes, tokens: Sequence[int], states: Iterable[State]) -> None:
        """Store states, each after the first `position` of these tokens; evict the oldest."""
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
            _, (scope, state) = self._states.popitem(last=False)
            self.size_bytes -= _size(state)
            left = self._lengths[scope]
            left[state.position] -= 1
            if not left[state.position]:
                del left[state.position]
            if not left:
                del self._lengths[scope]


@dataclass(slots=True)
class PrefixLookups:
    """How many lookups have found a state, and how many none. Belongs to the event loop."""

    hits: int = 0
    misses: int = 0
    known_tokens: int = 0  # prompt tokens that the found states have consumed

    def count(self, found: State | None) -> None:
        """Count one lookup."""
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
            self.known_tokens += found.position


@dataclass(frozen=True, slots=True)
class ScopedPrefixCache:
    """The part of a prefix cache that belongs to one model, owner and salt."""

    cache: PrefixCache
    scope: bytes
    lookups: PrefixLookups = field(default_factory=PrefixLookups)  # of all owners of the model

    def scoped(self, *names: str) -> "ScopedPrefixCache":
        """A narrower scope, which shares no states with any other."""
        scope = b"".join((self.scope, *map(_digest_of, names)))
        return ScopedPrefixCache(self.cache, scope, self.lookups)

    def longest(self, prompt: Sequence[int]) -> State | None:
        """The state after the longest known prefix that leaves the prompt's last token."""
        found = self.cache.longest(self.scope, prompt[:-1])
        self.lookups.count(found)
        return found

    def keep(self, prompt: Sequence[int], snapshots: "PrefillSnapshots") -> None:
        """Store a prompt's states."""
        self.cache.keep(self.scope, prompt, snapshots.states)


class PrefillSnapshots:
    """Of a prompt's states during prefill the last one, and some before it, evenly spaced."""

    def __init__(self, length: int) -> None:
        """`length` is the number of tokens of the whole prompt."""
        self._distance = max(MIN_DISTANCE, length // MAX_STATES)
        self.states: list[State] = []

    @property
    def last(self) -> State | None:
        """The state after the most tokens."""
        return self.states[-1] if self.states else None

    def add(self, state: State) -> None:
        """Add the next state. It replaces the last one if that is too near to the one before."""
        before = self.states[-2].position if len(self.states) > 1 else 0
        if self.states and self.states[-1].position - before < self._distance:
            self.states.pop()
        self.states.append(state)


@lru_cache(maxsize=1_024)
def _digest_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _keys(scope: bytes, tokens: Sequence[int], lengths: Iterable[int]) -> Iterator[bytes]:
    """The keys of the prefixes of some rising lengths."""
    packed = np.asarray(tokens, np.int32).tobytes()
    digest = hashlib.blake2b(scope, digest_size=24)
    done = 0
    for length in lengths:
        digest.update(packed[4 * done : 4 * length])
        done = length
        yield digest.copy().digest()


def _size(state: State) -> int:
    return sum(array.nbytes for array in state.arrays) + _ENTRY_BYTES
