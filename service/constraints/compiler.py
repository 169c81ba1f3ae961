"""Compilation of a constraint spec for one model's vocabulary, with a cache."""

import asyncio
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from service.constraints.constraint import Constraint
from service.constraints.nfa import nfa_of
from service.constraints.pattern import (
    NOTHING,
    Alphabet,
    Pattern,
    characters,
    choice,
    positions,
    repeat,
    sequence,
)
from service.constraints.regex_parser import read_regex
from service.constraints.schema import read_schema
from service.constraints.spec import ConstraintKind, ConstraintSpec
from service.errors import Validation

MAX_POSITIONS = 32_768
"""The largest number of characters of a pattern with its repetitions expanded."""

CACHE_BYTES = 64 * 1024 * 1024
AT_ONCE = 2
"""Threads that compile for one vocabulary; the other specs wait in the executor's queue."""

_REFUSAL_BYTES = 1_024  # the size of a cached refusal in the cache's budget


def compile_constraint(spec: ConstraintSpec, vocabulary: Sequence[str | None]) -> Constraint:
    """Compile a spec for a vocabulary: a token of one character, None for a special token.

    Tokens of another length are special, too: they are never sampled. Takes milliseconds, at most
    about a second. Raises Validation, also if the vocabulary can spell no text that matches.
    """
    if spec.allowed:
        allowed = frozenset(spec.allowed)
        vocabulary = [token if i in allowed else None for i, token in enumerate(vocabulary)]
    alphabet = Alphabet(token for token in vocabulary if token is not None and len(token) == 1)
    pattern = _read(spec, alphabet)
    n = positions(pattern)
    if n > MAX_POSITIONS:
        raise Validation(
            f"the {spec.kind} has {n} characters when its repetitions are written out; "
            f"{MAX_POSITIONS} is the limit, so use smaller bounds of repetition"
        )
    if pattern is NOTHING:
        whose = "allowed" if spec.allowed else "model's"
        raise Validation(
            f"no text matches the {spec.kind} and is made of the {whose} {len(alphabet.members)} "
            "characters; ask for one that these can spell"
        )
    from service.constraints.dfa import dfa_of  # noqa: PLC0415 (loads Numba when it is needed)

    nfa = nfa_of(pattern)
    dfa = dfa_of(nfa)
    constraint = Constraint(nfa.token_classes(vocabulary), dfa.next_state, dfa.distance)
    return replace(_narrowed(constraint, spec, vocabulary), spec=spec)


def _narrowed(
    constraint: Constraint, spec: ConstraintSpec, vocabulary: Sequence[str | None]
) -> Constraint:
    """Restrict a constraint by the spec's banned words and least length."""
    from service.constraints.banned_words import ban_words  # noqa: PLC0415
    from service.constraints.intersection import intersect, min_length_constraint, remove_dead_ends  # noqa: PLC0415

    if spec.bad_words:
        constraint = _required(
            intersect(constraint, ban_words(spec.bad_words, vocabulary)),
            f"every text that matches the {spec.kind} has one of the bad words in it; ban fewer",
        )
    if spec.least > constraint.shortest:
        constraint = _required(
            intersect(constraint, min_length_constraint(spec.least, len(vocabulary))),
            f"no text that matches the {spec.kind} has {spec.least} tokens or more; ask "
            "for fewer at least",
        )
    if spec.kind is ConstraintKind.ANY:
        constraint = _required(
            remove_dead_ends(constraint),
            "no text can go on without one of the bad words, or there is no token that is "
            "allowed and has a character; ban fewer, or allow more",
        )
    return constraint


def _required(found: Constraint | None, reason: str) -> Constraint:
    if found is None:
        raise Validation(reason)
    return found


def _read(spec: ConstraintSpec, alphabet: Alphabet) -> Pattern:
    match spec.kind:
        case ConstraintKind.REGEX:
            return read_regex(spec.text, alphabet)
        case ConstraintKind.JSON_SCHEMA:
            return read_schema(json.loads(spec.text), alphabet, MAX_POSITIONS)
        case ConstraintKind.ANY:
            return repeat(characters(alphabet.members), 0, None)
        case ConstraintKind.CHOICE:
            texts = json.loads(spec.text)
            return choice(
                *(sequence(*(characters({c} & alphabet.members) for c in text)) for text in texts)
            )


class ConstraintCompiler:
    """Compiles specs for one vocabulary and caches the results, refusals too. Thread-safe.

    The least recently used results are dropped first, beyond `cache_bytes`. `build` compiles one
    spec for a vocabulary.
    """

    def __init__(
        self,
        vocabulary: Sequence[str | None],
        cache_bytes: int = CACHE_BYTES,
        build: Callable[[ConstraintSpec, Sequence[str | None]], Constraint] = compile_constraint,
    ) -> None:
        self._vocabulary, self._build = tuple(vocabulary), build
        self.vocabulary_size = len(self._vocabulary)
        self._known: OrderedDict[ConstraintSpec, Constraint | str] = OrderedDict()
        self.size_bytes, self._cache_bytes = 0, cache_bytes
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(AT_ONCE, "constraints")

    def known(self, spec: ConstraintSpec) -> Constraint | None:
        """Return a cached constraint or None. Raises Validation if the refusal is cached."""
        with self._lock:
            found = self._known.get(spec)
            if found is not None:
                self._known.move_to_end(spec)
        if isinstance(found, str):
            raise Validation(found)
        return found

    def compile(self, spec: ConstraintSpec) -> Constraint:
        """Compile as `compile_constraint`, or return the cached result."""
        known = self.known(spec)
        if known is not None:
            return known
        try:
            found = self._build(spec, self._vocabulary)
        except Validation as refusal:
            self._keep(spec, str(refusal))
            raise
        self._keep(spec, found)
        return found

    async def compiled(self, spec: ConstraintSpec) -> Constraint:
        """As `compile`, in a thread of its own unless the result is cached."""
        known = self.known(spec)
        if known is not None:
            return known
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self.compile, spec)

    def _keep(self, spec: ConstraintSpec, found: Constraint | str) -> None:
        with self._lock:
            if spec not in self._known:  # else another thread has compiled it meanwhile
                self.size_bytes += _size(spec, found)
            self._known[spec] = found
            while self.size_bytes > self._cache_bytes and len(self._known) > 1:
                self.size_bytes -= _size(*self._known.popitem(last=False))


def _size(spec: ConstraintSpec, found: Constraint | str) -> int:
    size = _REFUSAL_BYTES if isinstance(found, str) else found.size_bytes
    return size + spec.size_bytes
