"""The score of a training text by a model, by which a wrong order of a vocabulary is found.

A model that was trained predicts its text better than the frequencies of single tokens do. Under
another order of the same tokens it predicts it worse by far.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.models.spec import ModelSpec
from service.models.step import StepProgram, WindowedProgram
from service.models.window import Padding
from service.models.window_parity import affordable, log_probabilities

ROWS = 32
MIN_TOKENS = 128
BURN_IN = 16  # tokens at the beginning of a piece that are not counted
PRODUCTS = 20_000_000_000
"""Products that the score of one candidate may take, if it takes more than MIN_TOKENS."""

FEWEST_BY_LINE = 8
"""The score by lines counts if it has at least an eighth of the sequence's tokens: a text of a few
long lines is a sequence."""

COMMON, EXCHANGE_NATS = 10, 10.0
"""Occurrences of two tokens, and the nats that their exchange has to gain on the whole text."""

LEAST_LOG = -50.0  # of a token that is never sampled
LARGE = 1_024  # tokens of a vocabulary whose exchanges are not compared
FREQUENT = 20  # occurrences of a token from which its own score counts
MISPLACED_NATS = 1.0
"""Nats by which a frequent token may be less likely than its frequency."""


@dataclass(frozen=True, slots=True)
class TextScore:
    """The surprisal of each scored token of a text."""

    tokens: npt.NDArray[np.int64]  # (n,)
    surprisals: npt.NDArray[np.float64]  # (n,), nats
    by_token: npt.NDArray[np.float64] | None = None  # (vocabulary, vocabulary), [a, b]: the sum of
    # log p(b) where the text has a; None for a large vocabulary

    @property
    def nats(self) -> float:
        """Mean nats per token."""
        return float(self.surprisals.mean()) if len(self.tokens) else float("inf")

    @property
    def entropy(self) -> float:
        """The entropy of the single tokens in nats: their score by their frequencies alone."""
        _, counts = np.unique(self.tokens, return_counts=True)
        shares = counts / max(1, len(self.tokens))
        return float(-(shares * np.log(shares)).sum())

    @property
    def is_of_the_model(self) -> bool:
        """Whether the model predicts the text better than the frequencies of its tokens do."""
        return self.nats < self.entropy

    @property
    def misplaced(self) -> list[int]:
        """The tokens of wrong ids: far less likely than their frequency, or better exchanged."""
        found = self._exchanged()
        for token, count in zip(*np.unique(self.tokens, return_counts=True), strict=True):
            if count >= FREQUENT:
                own = self.surprisals[self.tokens == token].mean()
                is_unlikely = own > MISPLACED_NATS - np.log(count / len(self.tokens))
                if is_unlikely and int(token) not in found:
                    found.append(int(token))
        return found

    def _exchanged(self) -> list[int]:
        """The two tokens whose exchange makes the text most likely, if it does by far."""
        sums = self.by_token
        if sums is None:
            return []
        counts = np.bincount(self.tokens, minlength=len(sums))
        right = np.diag(sums)
        gain = sums + sums.T - right[:, None] - right[None, :]
        gain[counts < COMMON] = gain[:, counts < COMMON] = -np.inf
        a, b = np.unravel_index(np.argmax(gain), gain.shape)
        return [int(a), int(b)] if gain[a, b] > EXCHANGE_NATS else []


def score_text(
    program: StepProgram,
    spec: ModelSpec,
    lines: Sequence[Sequence[int]],
    special_ids: Sequence[int],
    most: int,
) -> TextScore:
    """Score at most about `most` tokens of a text, whose lines are token ids.

    The text is read as one sequence and, where a window need not be full, line by line, too:
    authors train on both. The lower score is returned. Of a line that is longer than the window
    only its beginning is read: what follows is scored by the sequence.
    """
    running = [token for line in lines for token in line]
    window = spec.window
    most = min(most, affordable(spec, PRODUCTS, MIN_TOKENS, most))
    if window is None:
        pieces, context = _pieces(running, BURN_IN, most), BURN_IN
        return _read(program, pieces, context, special_ids)
    score = _read(program, _pieces(running, window.length, most), window.length, special_ids)
    if window.padding is Padding.NONE:
        return score
    begins = [line[: window.length + 1] for line in lines if len(line) > 1]
    by_line = _read(program, list(_first_tokens(begins, most)), 1, special_ids)
    if len(by_line.tokens) < len(score.tokens) // FEWEST_BY_LINE:
        return score
    return min(score, by_line, key=lambda each: each.nats)


def _pieces(text: Sequence[int], context: int, most: int) -> list[Sequence[int]]:
    """Return pieces of a text, evenly spaced, that have `most` tokens after their contexts."""
    length = context + max(1, -(-most // ROWS))
    n = min(ROWS, len(text) // length)
    if n == 0:
        return [text] if len(text) > context else []
    starts = np.linspace(0, len(text) - length, n).astype(int).tolist()
    return [text[start : start + length] for start in starts]


def _first_tokens(lines: Sequence[Sequence[int]], most: int) -> Iterator[Sequence[int]]:
    """Yield lines, evenly spaced, until they have `most` tokens."""
    if not lines:
        return
    length = sum(map(len, lines)) / len(lines)
    n = max(1, min(len(lines), int(most / length)))
    for i in np.linspace(0, len(lines) - 1, n).astype(int).tolist():
        yield lines[i]


def _read(
    program: StepProgram, texts: Sequence[Sequence[int]], context: int, special_ids: Sequence[int]
) -> TextScore:
    """Read each text; the first `context` tokens of each are not counted."""
    tokens: list[int] = []
    surprisals: list[float] = []
    size = program.vocabulary_size
    by_token = np.zeros((size, size)) if size <= LARGE else None
    for first in range(0, len(texts), ROWS):
        group = sorted(texts[first : first + ROWS], key=len, reverse=True)
        batch = program.new_batch(len(group))
        begin = 0
        if isinstance(program, WindowedProgram):
            begin = context - 1
            for row, text in enumerate(group):
                batch.put(row, program.prefill(None, text[:context]))
        for t in range(begin, len(group[0]) - 1):
            rows = sum(len(text) > t + 1 for text in group)
            batch.tokens[:rows] = [text[t] for text in group[:rows]]
            program.step(batch, rows)
            if t + 1 >= context:
                following = [text[t + 1] for text in group[:rows]]
                logs = log_probabilities(batch.logits[:rows], special_ids)
                tokens += following
                surprisals += (-logs[np.arange(rows), following]).tolist()
                if by_token is not None:
                    np.add.at(by_token, following, np.maximum(logs, LEAST_LOG))
    return TextScore(np.array(tokens, np.int64), np.array(surprisals, np.float64), by_token)
