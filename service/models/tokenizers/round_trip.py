"""The round trip of a tokenizer: whether random tokens are the same after decode and encode."""

import random
from dataclasses import dataclass
from typing import Literal

from service.errors import UnknownCharacter
from service.models.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """How many of `sequences` random token sequences are the same after decode and encode.

    `compared` says what has to be the same: the `tokens`, or the `text` where a text has several
    sequences of tokens (subwords). `left_out` tokens have no text, or a text that is encoded in
    another way, such as a word in capitals where words are in lower case.
    """

    compared: Literal["tokens", "text"]
    sequences: int
    identical: int
    left_out: int

    @property
    def sentence(self) -> str:
        """What was measured, in words."""
        same = "tokens" if self.compared == "tokens" else "text"
        left_out = ""
        if self.left_out:
            what = "has no text" if self.compared == "text" else "has no text of its own"
            left_out = f"; {self.left_out} of the vocabulary {what} and was left out"
        return (
            f"decode and encode give the same {same} for {self.identical} of {self.sequences} "
            f"random token sequences{left_out}"
        )


def measure_round_trip(
    tokenizer: Tokenizer, sequences: int = 1000, length: int = 20, seed: int = 0
) -> RoundTrip:
    """Decode and encode random sequences of `length` tokens. The same seed gives the same ones."""
    rng = random.Random(seed)  # noqa: S311 (no secret)
    special = frozenset(tokenizer.special_ids)
    kept = [i for i in range(len(tokenizer)) if i not in special]
    is_tokens = not tokenizer.has_several_encodings
    if is_tokens:
        kept = [i for i in kept if _encoded(tokenizer, [i]) == [i]]
    left_out = len(tokenizer) - len(kept)
    identical = 0
    for _ in range(sequences if kept else 0):
        ids = rng.choices(kept, k=length)
        found = _encoded(tokenizer, ids)
        if is_tokens:
            identical += found == ids
        elif found is not None:
            identical += _text(tokenizer, found) == _text(tokenizer, ids)
    return RoundTrip("tokens" if is_tokens else "text", sequences, identical, left_out)


def _encoded(tokenizer: Tokenizer, ids: list[int]) -> list[int] | None:
    try:
        return tokenizer.encode(_text(tokenizer, ids))
    except UnknownCharacter:
        return None


def _text(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, is_start=True)
