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
from service.constraints.token_texts import TokenTexts
from service.errors import Validation

MAX_POSITIONS = 32_768
"""The largest number of characters of a pattern with its repetitions expanded."""

CACHE_BYTES = 64 * 1024 * 1024
AT_ONCE = 2
"""Threads that compile for one vocabulary; the other specs wait in the executor's queue."""

Vocabulary = TokenTexts | Sequence[str | None]

_REFUSAL_BYTES = 1_024  # the size of a cached refusal in the cache's budget


def compile_constraint(spec: ConstraintSpec, vocabulary: Vocabulary) -> Constraint:
    """Compile a spec for the texts of a model's tokens; a sequence is a vocabulary of characters.

    Takes milliseconds, at most about two seconds. Raises Validation, also if the vocabulary can
    spell no text that matches.
    """
    texts = _texts_of(vocabulary)
    if spec.allowed:
        texts = texts.only(frozenset(spec.allowed))
    characters = texts.characters
    pattern = _read(spec, Alphabet(characters), texts.joiner)
    n = positions(pattern)
    if n > MAX_POSITIONS:
        raise Validation(
            f"the {spec.kind} has {n} characters when its repetitions are written out; "
            f"{MAX_POSITIONS} is the limit, so use smaller bounds of repetition"
        )
    whose = "allowed" if spec.allowed else "model's"
    if pattern is NOTHING:
        raise Validation(
            f"no text matches the {spec.kind} and is made of the {whose} {len(characters)} "
            "characters; ask for one that these can spell"
        )
    from service.constraints.dfa import dfa_of  # noqa: PLC0415 (loads Numba when it is needed)
    from service.constraints.lifting import add_ends, lift  # noqa: PLC0415

    nfa = nfa_of(pattern)
    dfa = dfa_of(nfa)
    if texts.is_of_characters:
        constraint = Constraint(nfa.token_classes(texts.texts), dfa.next_state, dfa.distance)
    else:
        n_tokens = len(texts.texts) - texts.texts.count(None)
        hint = ", its first word without a blank before it" if texts.joiner else ""
        over_characters = Constraint(nfa.token_classes(characters), dfa.next_state, dfa.distance)
        constraint = _required(
            lift(over_characters, characters, texts),
            f"no text matches the {spec.kind} and is made of the {whose} {n_tokens} tokens with a "
            f"text; ask for one that these can spell{hint}",
        )
    constraint = _narrowed(constraint, spec, texts, characters)
    return replace(add_ends(constraint, texts.end_ids), spec=spec)


def _narrowed(
    constraint: Constraint, spec: ConstraintSpec, texts: TokenTexts, characters: Sequence[str]
) -> Constraint:
    """Restrict a constraint by the spec's banned words and least length."""
    from service.constraints.intersection import intersect, min_length_constraint, remove_dead_ends  # noqa: PLC0415

    if spec.bad_words:
        constraint = _required(
            intersect(constraint, _without(spec.bad_words, texts, characters)),
            f"every text that matches the {spec.kind} has one of the bad words in it; ban fewer",
        )
    if spec.least > constraint.shortest:
        constraint = _required(
            intersect(constraint, min_length_constraint(spec.least, len(texts.texts))),
            f"no text that matches the {spec.kind} has {spec.least} tokens or more; ask "
            "for fewer at least",
        )
    if spec.kind is ConstraintKind.ANY:
        needed = "a token that is allowed and has a character; allow more"
        if spec.bad_words:
            needed = "one of the bad words, or there is no other token; ban fewer, or allow more"
        constraint = _required(remove_dead_ends(constraint), f"no text can go on without {needed}")
    return constraint


def _without(words: Sequence[str], texts: TokenTexts, characters: Sequence[str]) -> Constraint:
    """Return the constraint that bans words in the text as it is returned, joiners included."""
    from service.constraints.banned_words import ban_words  # noqa: PLC0415
    from service.constraints.lifting import lift  # noqa: PLC0415

    if texts.is_of_characters:
        return ban_words(words, texts.texts)
    lifted = lift(ban_words(words, characters), characters, replace(texts, joiner=""))
    assert lifted is not None, "a text may end in every state"
    return lifted


def _texts_of(vocabulary: Vocabulary) -> TokenTexts:
    if isinstance(vocabulary, TokenTexts):
        return vocabulary
    return TokenTexts.of_characters(vocabulary)


def _required(found: Constraint | None, reason: str) -> Constraint:
    if found is None:
        raise Validation(reason)
    return found


def _read(spec: ConstraintSpec, alphabet: Alphabet, joiner: str) -> Pattern:
    match spec.kind:
        case ConstraintKind.REGEX:
            return read_regex(spec.text, alphabet)
        case ConstraintKind.JSON_SCHEMA:
            return read_schema(json.loads(spec.text), alphabet, MAX_POSITIONS)
        case ConstraintKind.ANY:
            return repeat(characters(alphabet.members), 0, None)
        case ConstraintKind.CHOICE:
            # The first word of a text is read without its joiner, and so is a choice.
            texts = [text.removeprefix(joiner) for text in json.loads(spec.text)]
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
        vocabulary: Vocabulary,
        cache_bytes: int = CACHE_BYTES,
        build: Callable[[ConstraintSpec, TokenTexts], Constraint] = compile_constraint,
    ) -> None:
        self._texts, self._build = _texts_of(vocabulary), build
        self.vocabulary_size = len(self._texts.texts)
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
            found = self._build(spec, self._texts)
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
