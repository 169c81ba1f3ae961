"""From what was asked for to a constraint over one model's vocabulary, once for each."""

import asyncio
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from service.constraints.alphabet import Alphabet
from service.constraints.constraint import Constraint
from service.constraints.nfa import nfa_of
from service.constraints.pattern import (
    NOTHING,
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
"""Characters of a pattern whose repetitions are written out."""

CACHE_BYTES = 64 * 1024 * 1024
AT_ONCE = 2
"""Compilations at once for one vocabulary; others wait, and hold up nothing else."""

_REFUSAL_BYTES = 1_024  # what a remembered refusal counts for


def compile_constraint(source: ConstraintSpec, vocabulary: Sequence[str | None]) -> Constraint:
    """The constraint that a source is over a vocabulary.

    Tokens of one character may be drawn; None and tokens of any other length never are. Takes
    milliseconds, and at most about a second.

    Raises:
        Validation: the source is malformed, asks for what is not served, is over a limit, or the
            vocabulary cannot spell a single text of it.

    """
    if source.allowed:
        allowed = frozenset(source.allowed)
        vocabulary = [token if i in allowed else None for i, token in enumerate(vocabulary)]
    alphabet = Alphabet(token for token in vocabulary if token is not None and len(token) == 1)
    pattern = _read(source, alphabet)
    n = positions(pattern)
    if n > MAX_POSITIONS:
        raise Validation(
            f"the {source.kind} has {n} characters when its repetitions are written out; "
            f"{MAX_POSITIONS} is the limit, so use smaller bounds of repetition"
        )
    if pattern is NOTHING:
        whose = "allowed" if source.allowed else "model's"
        raise Validation(
            f"no text matches the {source.kind} and is made of the {whose} {len(alphabet.members)} "
            "characters; ask for one that these can spell"
        )
    from service.constraints.dfa import dfa_of  # noqa: PLC0415 (compiled where it is used)

    program = nfa_of(pattern)
    automaton = dfa_of(program)
    classes = program.token_classes(vocabulary)
    constraint = Constraint(classes, automaton.next_state, automaton.distance)
    return replace(_narrowed(constraint, source, vocabulary), source=source)


def _narrowed(
    constraint: Constraint, source: ConstraintSpec, vocabulary: Sequence[str | None]
) -> Constraint:
    """What is left of a constraint without bad words, and from the least length on."""
    from service.constraints.banned_words import without  # noqa: PLC0415
    from service.constraints.intersection import at_least, intersect, keep_extendable  # noqa: PLC0415 (likewise)

    if source.bad_words:
        found = intersect(constraint, without(source.bad_words, vocabulary))
        if found is None:
            raise Validation(
                f"every text that matches the {source.kind} has one of the bad words in it; ban "
                "fewer"
            )
        constraint = found
    if source.least > constraint.shortest:
        found = intersect(constraint, at_least(source.least, len(vocabulary)))
        if found is None:
            raise Validation(
                f"no text that matches the {source.kind} has {source.least} tokens or more; ask "
                "for fewer at least"
            )
        constraint = found
    if source.kind is ConstraintKind.ANY:
        found = keep_extendable(constraint)
        if found is None:
            raise Validation(
                "no text can go on without one of the bad words, or there is no token that is "
                "allowed and has a character; ban fewer, or allow more"
            )
        constraint = found
    return constraint


def _read(source: ConstraintSpec, alphabet: Alphabet) -> Pattern:
    match source.kind:
        case ConstraintKind.REGEX:
            return read_regex(source.text, alphabet)
        case ConstraintKind.JSON_SCHEMA:
            return read_schema(json.loads(source.text), alphabet, MAX_POSITIONS)
        case ConstraintKind.ANY:
            return repeat(characters(alphabet.members), 0, None)
        case ConstraintKind.CHOICE:
            texts = json.loads(source.text)
            return choice(
                *(sequence(*(characters({c} & alphabet.members) for c in text)) for text in texts)
            )


class ConstraintCompiler:
    """Compiles for one vocabulary and remembers; any thread may ask."""

    def __init__(self, vocabulary: Sequence[str | None], cache_bytes: int = CACHE_BYTES) -> None:
        self._vocabulary = tuple(vocabulary)
        self._known: OrderedDict[ConstraintSpec, Constraint | str] = OrderedDict()
        self._bytes, self._cache_bytes = 0, cache_bytes
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(AT_ONCE, "constraints")  # none but these wait

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are."""
        return len(self._vocabulary)

    @property
    def size_bytes(self) -> int:
        """What it remembers, in memory."""
        return self._bytes

    def known(self, source: ConstraintSpec) -> Constraint | None:
        """What was asked for lately, at once. Raises Validation where it was refused."""
        found = self._remembered(source)
        if isinstance(found, str):
            raise Validation(found)
        return found

    def compile(self, source: ConstraintSpec) -> Constraint:
        """As `compile_constraint`; what was asked for lately costs nothing, refused or not."""
        found = self._remembered(source) or self._compiled(source)
        if isinstance(found, str):
            raise Validation(found)
        return found

    async def compiled(self, source: ConstraintSpec) -> Constraint:
        """As `compile`; what is not known is made in one of a few threads of its own."""
        known = self.known(source)
        if known is not None:
            return known
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self.compile, source)

    def _compiled(self, source: ConstraintSpec) -> Constraint | str:
        found: Constraint | str
        try:
            found = compile_constraint(source, self._vocabulary)
        except Validation as refusal:
            found = str(refusal)
        with self._lock:
            if source not in self._known:  # else two were at it
                self._bytes += _size(source, found)
            self._known[source] = found
            while self._bytes > self._cache_bytes and len(self._known) > 1:
                self._bytes -= _size(*self._known.popitem(last=False))
        return found

    def _remembered(self, source: ConstraintSpec) -> Constraint | str | None:
        with self._lock:
            found = self._known.get(source)
            if found is not None:
                self._known.move_to_end(source)
            return found


def _size(source: ConstraintSpec, found: Constraint | str) -> int:
    size = _REFUSAL_BYTES if isinstance(found, str) else found.size_bytes
    return size + source.size_bytes
