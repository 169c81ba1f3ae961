"""Whether a text that was decoded from tokens is encoded to the same tokens."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import UnknownCharacter
from service.models.tokenizers.tokenizer import Tokenizer

_LENGTH, _N_EXAMINED = 12, 2000


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """How many random token sequences decode → encode gives back; `reason` says why not all."""

    n_sequences: int
    n_identical: int
    reason: str = ""

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        if self.n_identical == self.n_sequences:
            return f"decode → encode gives back all of {self.n_sequences} random token sequences"
        return (
            f"decode → encode gives back {self.n_identical} of {self.n_sequences} random token "
            f"sequences: {self.reason}"
        )


def check_round_trip(tokenizer: Tokenizer, n: int = 1000, seed: int = 0) -> RoundTrip:
    """Decode and encode `n` random sequences of tokens that are not special."""
    rng = random.Random(seed)  # noqa: S311 (no secret)
    special = frozenset(tokenizer.special_ids)
    plain = [i for i in range(len(tokenizer)) if i not in special]
    if not plain:
        return RoundTrip(n, 0, "every token is special, so that none has a text")
    changed = [
        ids
        for ids in (rng.choices(plain, k=_LENGTH) for _ in range(n))
        if _encoded(tokenizer, tokenizer.decode(ids, is_start=True)) != ids
    ]
    reason = _reason(tokenizer, changed) if changed else ""
    return RoundTrip(n, n - len(changed), reason)


def _encoded(tokenizer: Tokenizer, text: str) -> list[int] | None:
    try:
        return tokenizer.encode(text)
    except UnknownCharacter:
        return None


def _reason(tokenizer: Tokenizer, changed: Sequence[Sequence[int]]) -> str:
    """Return why the sequences are not encoded as they were, by their tokens one by one."""
    tokens = list(dict.fromkeys(i for ids in changed for i in ids))[:_N_EXAMINED]
    partial: list[int] = []
    unknown: list[int] = []
    other: list[int] = []
    for i in tokens:
        text = tokenizer.decode([i], is_start=True)
        if tokenizer.has_partial_characters and "\ufffd" in text:
            partial.append(i)
        elif (ids := _encoded(tokenizer, text)) != [i]:
            (other if ids else unknown).append(i)
    reasons = []
    if partial:
        reasons.append(f"{_named(tokenizer, partial)} a text that is a part of a character")
    if unknown:
        reasons.append(f"{_named(tokenizer, unknown)} a text that has no token when it is encoded")
    if other:
        example = tokenizer.decode(other[:1], is_start=True)
        ids = _encoded(tokenizer, example) or []
        pieces = ", ".join(repr(tokenizer.tokens[i][:20]) for i in ids[:4])
        reasons.append(f"{_named(tokenizer, other)} a text that is encoded otherwise (as {pieces})")
    examined = {*partial, *unknown, *other}
    if any(examined.isdisjoint(ids) for ids in changed) or not reasons:
        reasons.append("several sequences of tokens have the same text, which is encoded as one")
    return "; ".join(reasons)


def _named(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    example = repr(tokenizer.tokens[tokens[0]][:20])
    if len(tokens) == 1:
        return f"the token {example} has"
    return f"{len(tokens)} of their tokens, such as {example}, have"
