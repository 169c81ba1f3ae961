"""From logits to the next token of every row, in float64, without the interpreter's lock.

Order of what a request may ask for: its constraint, which leaves some tokens out altogether;
repetition, frequency and presence penalty, logit bias, temperature, then top-k, top-p, min-p and
typical-p, each on what the one before has left; then one inverse-CDF draw in the order of token
ids. Ties go to the smaller id everywhere.

Sources: repetition penalty, Keskar et al. 2019 (CTRL); nucleus (top-p), Holtzman et al. 2020;
locally typical sampling, Meister et al. 2023; min-p, Nguyen et al. 2024; frequency and presence
penalty as OpenAI's API documents them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from service.constraints.constraint import START, Constraint
from service.generation.constraint_mask import follow, is_over, mask
from service.generation.random import uniform
from service.generation.request import MAX_TOP_TOKENS, PENALTY_WINDOW, GenerationRequest
from service.models.spec import FloatArray
from service.models.step import Batch

MAX_STEPS = 32
"""The longest burst: how many steps may pass before the draws are looked at."""

FAILED = -1
"""The draw of a row whose logits are not finite."""

ENDED = -2
"""The draw of a row whose text is complete: nothing that its constraint allows could follow."""

# Columns of the two parameter tables: one row for each slot.
_TEMPERATURE, _TOP_P, _MIN_P, _TYPICAL_P, _REPETITION, _FREQUENCY, _PRESENCE, _REALS = range(8)
(
    _POSITION,
    _TOP_K,
    _TOP_TOKENS,
    _HAS_BIAS,
    _HAS_PENALTY,
    _WINDOW_LENGTH,
    _FED,
    _SILENT,
    _TABLE,  # address of the constraint's table; 0: none
    _TABLE_SIZE,
    _STATE,
    _REMAINING,  # tokens that the text may still get
    _WHOLES,
) = range(13)


@dataclass(frozen=True, slots=True)
class Samples:
    """What a burst drew. Views into the sampler's memory: valid until the next burst."""

    tokens: npt.NDArray[np.int32]  # (rows, steps); FAILED where a row failed, ENDED after its end
    logprobs: npt.NDArray[np.float64]  # (rows, steps)
    top_tokens: npt.NDArray[np.int32]  # (rows, steps, MAX_TOP_TOKENS), likeliest first
    top_logprobs: npt.NDArray[np.float64]  # (rows, steps, MAX_TOP_TOKENS)
    is_over: npt.NDArray[np.bool_]  # (rows,), whether the constraint lets nothing follow


class Sampler:
    """The sampling side of a slot table. One thread; `advance` releases the interpreter's lock."""

    def __init__(
        self, vocabulary_size: int, capacity: int, never_drawn: Sequence[int] = ()
    ) -> None:
        self._reals = np.zeros((capacity, _REALS))
        self._wholes = np.zeros((capacity, _WHOLES), np.int64)
        self._seeds = np.zeros(capacity, np.uint64)
        self._feed = np.zeros((capacity, MAX_STEPS), np.int64)
        self._bias = np.zeros((capacity, vocabulary_size))
        self._counts = np.zeros((capacity, vocabulary_size), np.int32)
        self._window = np.zeros((capacity, PENALTY_WINDOW), np.int32)
        self._constraints: list[Constraint | None] = [None] * capacity  # keeps the tables
        self._allowed = np.ones(vocabulary_size, np.bool_)
        self._allowed[list(never_drawn)] = False
        shape = (capacity, MAX_STEPS)
        self._tokens = np.zeros(shape, np.int32)
        self._logprobs = np.zeros(shape)
        self._top_tokens = np.zeros((*shape, MAX_TOP_TOKENS), np.int32)
        self._top_logprobs = np.zeros((*shape, MAX_TOP_TOKENS))
        self.arguments = (  # what `advance_rows` needs of this sampler
            self._reals,
            self._wholes,
            self._seeds,
            self._feed,
            self._bias,
            self._counts,
            self._window,
            self._allowed,
            self._tokens,
            self._logprobs,
            self._top_tokens,
            self._top_logprobs,
        )

    def start(self, row: int, request: GenerationRequest) -> None:
        """Take a request's parameters into a row; its first draw comes after the prompt."""
        params = request.sampling
        self._reals[row] = (
            params.temperature,
            params.top_p,
            params.min_p,
            params.typical_p,
            params.repetition_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        )
        has_penalty = (
            params.repetition_penalty != 1.0
            or params.frequency_penalty != 0.0
            or params.presence_penalty != 0.0
        )
        self._seeds[row] = params.seed
        position = (request.initial_state.position if request.initial_state else 0) + len(
            request.prompt
        )
        constraint = self._constraints[row] = request.constraint
        table = None if constraint is None else constraint.table
        assert constraint is None or len(constraint.token_class) == self._bias.shape[1]
        self._wholes[row] = (
            position,
            params.top_k,
            request.top_tokens,
            bool(params.logit_bias),
            has_penalty,
            0,
            0,
            0,
            0 if table is None else table.ctypes.data,
            0 if table is None else table.size,
            START,
            request.max_new_tokens,
        )
        if params.logit_bias:
            self._bias[row] = 0.0
            for token, bias in params.logit_bias:
                self._bias[row, token] = bias
        if has_penalty:
            recent = np.asarray(
                [*request.penalty_context, *request.prompt][-PENALTY_WINDOW:], np.int32
            )
            places = np.arange(position - len(recent), position) % PENALTY_WINDOW
            self._window[row, places] = recent
            self._counts[row] = np.bincount(recent, minlength=self._counts.shape[1])
            self._wholes[row, _WINDOW_LENGTH] = len(recent)

    def feed(self, row: int, tokens: Sequence[int], silent: int) -> None:
        """Let a row take these tokens before it draws; at most MAX_STEPS, once a burst.

        The first `silent` are of its prompt; the others are reported as if they were drawn.
        """
        self._feed[row, : len(tokens)] = tokens
        self._wholes[row, [_FED, _SILENT]] = len(tokens), silent

    def swap(self, a: int, b: int) -> None:
        """Exchange two rows."""
        tables: list[npt.NDArray[Any]] = [self._reals, self._wholes, self._seeds]
        if self._wholes[a, _HAS_BIAS] or self._wholes[b, _HAS_BIAS]:
            tables.append(self._bias)
        if self._wholes[a, _HAS_PENALTY] or self._wholes[b, _HAS_PENALTY]:
            tables += [self._counts, self._window]
        for table in tables:
            table[[a, b]] = table[[b, a]]
        constraints = self._constraints
        constraints[a], constraints[b] = constraints[b], constraints[a]

    def advance(self, batch: Batch, rows: int, step: int) -> None:
        """After step number `step` of a burst: give each row its next token, fed or drawn."""
        advance_rows(self.arguments, batch.logits, batch.tokens, 0, rows, step)

    def draws(self, rows: int, steps: int) -> Samples:
        """What the burst that has just ended drew; also forgets what it was fed."""
        self._wholes[:rows, [_FED, _SILENT]] = 0
        is_over = np.zeros(rows, np.bool_)
        for row in np.flatnonzero(self._wholes[:rows, _TABLE]).tolist():
            constraint = self._constraints[row]
            state, remaining = self._wholes[row, [_STATE, _REMAINING]].tolist()
            is_over[row] = constraint is not None and constraint.is_over(state, remaining)
        return Samples(
            self._tokens[:rows, :steps],
            self._logprobs[:rows, :steps],
            self._top_tokens[:rows, :steps],
            self._top_logprobs[:rows, :steps],
            is_over,
        )


def logsumexp(logits: FloatArray) -> npt.NDArray[np.float64]:
    """Log Σ exp of each row's logits, (rows,), or NaN where they are not finite numbers."""
    return np.array([_log_total(row) for row in logits])


@njit(cache=True, nogil=True, error_model="numpy")
def _log_total(logits):  # type: ignore[no-untyped-def]
    """Log Σ exp(logits), or NaN where the logits are not finite numbers."""
    largest = -np.inf
    for x in logits:
        if not x < np.inf:  # NaN or +inf
            return np.nan
        largest = max(largest, np.float64(x))
    total = 0.0
    for x in logits:
        total += np.exp(np.float64(x) - largest)
    return largest + np.log(total)


@njit(cache=True, nogil=True, error_model="numpy")
def _penalise(scores, counts, reals):  # type: ignore[no-untyped-def]
    repetition = reals[_REPETITION]
    for i in range(len(scores)):
        if counts[i] > 0:
            scores[i] = scores[i] / repetition if scores[i] > 0 else scores[i] * repetition
            scores[i] -= reals[_FREQUENCY] * counts[i] + reals[_PRESENCE]


@njit(cache=True, nogil=True, error_model="numpy")
def _keep_prefix(weights, order, kept, mass):  # type: ignore[no-untyped-def]
    """How many of the first `kept` in `order` it takes to hold `mass` of their total weight."""
    total = 0.0
    for k in range(kept):
        total += weights[order[k]]
    held = 0.0
    for k in range(kept):
        held += weights[order[k]]
        if held >= mass * total:
            return k + 1
    return kept


@njit(cache=True, nogil=True, error_model="numpy")
def _filter(weights, top_k, reals):  # type: ignore[no-untyped-def]
    """Zero the weights that top-k, top-p, min-p and typical-p do not leave."""
    order = np.argsort(-weights, kind="mergesort")
    kept = len(weights)
    if top_k > 0:
        kept = min(kept, top_k)
    if reals[_TOP_P] < 1.0:
        kept = _keep_prefix(weights, order, kept, reals[_TOP_P])
    if reals[_MIN_P] > 0.0:
        least, k = reals[_MIN_P] * weights[order[0]], 1
        while k < kept and weights[order[k]] >= least:
            k += 1
        kept = k
    if reals[_TYPICAL_P] < 1.0:
        order = _by_typicality(weights, order[:kept])
        kept = _keep_prefix(weights, order, len(order), reals[_TYPICAL_P])
    for k in range(kept):
        weights[order[k]] = -weights[order[k]]
    for i in range(len(weights)):
        weights[i] = -weights[i] if weights[i] < 0.0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _by_typicality(weights, order):  # type: ignore[no-untyped-def]
    """`order` sorted by how near each token's surprise is to the expected one."""
    total = 0.0
    for i in order:
        total += weights[i]
    entropy = 0.0
    for i in order:
        if weights[i] > 0.0:
            entropy -= weights[i] / total * np.log(weights[i] / total)
    distance = np.empty(len(order))
    for k in range(len(order)):
        w = weights[order[k]]
        distance[k] = abs(-np.log(w / total) - entropy) if w > 0.0 else np.inf
    return order[np.argsort(distance, kind="mergesort")]


@njit(cache=True, nogil=True, error_model="numpy")
def _choose(scores, top_k, reals, seed, position):  # type: ignore[no-untyped-def]
    """One token from scores, (vocabulary,) float64, which are used up; -1 if none is left."""
    best = 0
    for i in range(len(scores)):
        if scores[i] > scores[best]:
            best = i
    if scores[best] == -np.inf:
        return -1
    temperature = reals[_TEMPERATURE]
    if temperature == 0.0:
        return best
    largest = scores[best]
    for i in range(len(scores)):
        scores[i] = np.exp((scores[i] - largest) / temperature)
    if top_k > 0 or reals[_TOP_P] < 1.0 or reals[_MIN_P] > 0.0 or reals[_TYPICAL_P] < 1.0:
        _filter(scores, top_k, reals)
    total = 0.0
    for w in scores:
        total += w
    threshold = uniform(seed, np.uint64(position)) * total
    held, last = 0.0, best
    for i in range(len(scores)):
        if scores[i] > 0.0:
            held += scores[i]
            last = i
            if held > threshold:
                break
    return last


@njit(cache=True, nogil=True, error_model="numpy")
def _top(logits, log_total, tokens, logprobs, n):  # type: ignore[no-untyped-def]
    """Write the n likeliest tokens and their logprobs, likeliest first."""
    held = 0
    for i in range(len(logits)):
        value = np.float64(logits[i]) - log_total
        if held == n and value <= logprobs[n - 1]:
            continue
        k = held if held < n else n - 1
        while k > 0 and logprobs[k - 1] < value:
            logprobs[k], tokens[k] = logprobs[k - 1], tokens[k - 1]
            k -= 1
        logprobs[k], tokens[k] = value, i
        held = min(held + 1, n)


@njit(cache=True, nogil=True, error_model="numpy")
def advance_rows(arguments, logits, tokens, first, last, step):  # type: ignore[no-untyped-def]
    """Give the rows from `first` to `last` their next tokens.

    Ranges that do not meet may run at once.
    logits is (rows, vocabulary) float32 and read, tokens (rows,) int64 and written.
    """
    (
        reals,
        wholes,
        seeds,
        feed,
        bias,
        counts,
        window,
        allowed,
        out_tokens,
        out_logprobs,
        out_top_tokens,
        out_top_logprobs,
    ) = arguments
    vocabulary = logits.shape[1]
    scores = np.empty(vocabulary)
    for row in range(first, last):
        whole = wholes[row]
        if step < whole[_SILENT]:
            tokens[row] = feed[row, step]
            continue
        table, size, state = whole[_TABLE], whole[_TABLE_SIZE], whole[_STATE]
        is_drawn = step >= whole[_FED]
        if table and is_drawn and is_over(table, size, vocabulary, state, whole[_REMAINING]):
            out_tokens[row, step] = ENDED
            tokens[row] = 0
            continue
        log_total = _log_total(logits[row])
        token = -1
        if not is_drawn and log_total == log_total:  # noqa: PLR0124 (not NaN)
            token = feed[row, step]
        elif log_total == log_total:  # noqa: PLR0124
            for i in range(vocabulary):
                scores[i] = logits[row, i] if allowed[i] else -np.inf
            if table:
                mask(scores, table, size, state, whole[_REMAINING])
            if whole[_HAS_PENALTY]:
                _penalise(scores, counts[row], reals[row])
            if whole[_HAS_BIAS]:
                for i in range(vocabulary):
                    scores[i] += bias[row, i]
            token = _choose(scores, whole[_TOP_K], reals[row], seeds[row], whole[_POSITION])
        out_tokens[row, step] = token
        if token < 0:
            tokens[row] = 0
            continue
        out_logprobs[row, step] = logits[row, token] - log_total
        if whole[_TOP_TOKENS] > 0:
            n = min(whole[_TOP_TOKENS], vocabulary)
            _top(logits[row], log_total, out_top_tokens[row, step], out_top_logprobs[row, step], n)
        if whole[_HAS_PENALTY]:
            place = whole[_POSITION] % PENALTY_WINDOW
            if whole[_WINDOW_LENGTH] == PENALTY_WINDOW:
                counts[row, window[row, place]] -= 1
            else:
                whole[_WINDOW_LENGTH] += 1
            window[row, place] = token
            counts[row, token] += 1
        whole[_POSITION] += 1
        if table:
            whole[_STATE] = follow(table, size, vocabulary, state, token)
            whole[_REMAINING] -= 1
        tokens[row] = token
