"""Sampling of every row's next token from its logits, in float64, with the GIL released.

Order: the request's constraint, which excludes tokens; repetition, frequency and presence penalty;
logit bias; temperature; then top-k, top-p, min-p and typical-p, each on the tokens that the one
before has kept; then one inverse-CDF sample in the order of token ids. Ties go to the smaller id.

Sources: repetition penalty, Keskar et al. 2019 (CTRL); nucleus (top-p), Holtzman et al. 2020;
locally typical sampling, Meister et al. 2023; min-p, Nguyen et al. 2024; frequency and presence
penalty as OpenAI's API documents them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
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

CALLED_KERNELS = "3e4ac9bfd3a22979"
"""Hash of the files whose kernels this file calls, which `test_kernel_cache.py` checks.

Numba caches a compiled kernel until its own file changes, so this line has to change with them.
"""

MAX_STEPS = 32  # steps of a burst at most: the width of the sampler's arrays
FAILED = -1  # the token of a row whose logits are not finite
ENDED = -2  # the token of a row that has ended: by an end token, or by its constraint

_PARAMETERS = (  # fields of SamplingParams that a row has under the same name
    ("temperature", np.float64),
    ("top_k", np.int64),
    ("top_p", np.float64),
    ("min_p", np.float64),
    ("typical_p", np.float64),
    ("repetition_penalty", np.float64),
    ("frequency_penalty", np.float64),
    ("presence_penalty", np.float64),
    ("seed", np.uint64),
)
_parameters_of = attrgetter(*(name for name, _ in _PARAMETERS))
_ROW = np.dtype(  # a slot's parameters, and where its generation is
    [
        *_PARAMETERS,
        ("position", np.int64),  # of the next token
        ("top_tokens", np.int64),
        ("has_bias", np.int64),
        ("has_penalty", np.int64),
        ("window_length", np.int64),
        ("n_fed", np.int64),
        ("n_prompt", np.int64),
        ("table", np.int64),  # address of the constraint's table; 0: none
        ("table_size", np.int64),
        ("state", np.int64),  # of the constraint
        ("remaining", np.int64),  # tokens that may still be generated
        ("least", np.int64),  # tokens that have to be generated before an end token
        ("ignores_end", np.int64),  # whether an end token ends nothing
        ("has_ended", np.int64),  # by an end token
    ]
)


@dataclass(frozen=True, slots=True)
class Samples:
    """The tokens of a burst: views of the sampler's memory, valid until the next burst."""

    tokens: npt.NDArray[np.int32]  # (rows, steps); FAILED if the row failed, ENDED after its end
    logprobs: npt.NDArray[np.float64]  # (rows, steps)
    top_tokens: npt.NDArray[np.int32]  # (rows, steps, MAX_TOP_TOKENS), most likely first
    top_logprobs: npt.NDArray[np.float64]  # (rows, steps, MAX_TOP_TOKENS)
    is_over: npt.NDArray[np.bool_]  # (rows,), whether an end token or the constraint has ended it


class Sampler:
    """Samples the tokens of a slot table. Belongs to one thread; `advance` releases the lock."""

    def __init__(
        self,
        vocabulary_size: int,
        capacity: int,
        suppressed_ids: Sequence[int] = (),
        end_ids: Sequence[int] = (),
    ) -> None:
        """Tokens of `suppressed_ids` are never sampled; one of `end_ids` ends its row."""
        self._rows = np.zeros(capacity, _ROW)
        self._feed = np.zeros((capacity, MAX_STEPS), np.int64)
        self._bias = np.zeros((capacity, vocabulary_size))
        self._counts = np.zeros((capacity, vocabulary_size), np.int32)
        self._window = np.zeros((capacity, PENALTY_WINDOW), np.int32)
        self._constraints: list[Constraint | None] = [None] * capacity  # keeps the tables alive
        self._allowed = np.ones(vocabulary_size, np.bool_)
        self._allowed[list(suppressed_ids)] = False
        shape = (capacity, MAX_STEPS)
        top_shape = (*shape, MAX_TOP_TOKENS)
        self._outputs = (  # the columns of Samples
            *(np.zeros(shape, np.int32), np.zeros(shape)),
            *(np.zeros(top_shape, np.int32), np.zeros(top_shape)),
        )
        self.arguments = (  # of `advance_rows`
            *(self._rows, self._feed, self._bias, self._counts, self._window, self._allowed),
            np.array(end_ids, np.int64),
            *self._outputs,
        )

    def start(self, row: int, request: GenerationRequest) -> None:
        """Put a request's parameters into a row."""
        params, constraint = request.sampling, request.constraint
        has_penalty = (
            params.repetition_penalty != 1.0
            or params.frequency_penalty != 0.0
            or params.presence_penalty != 0.0
        )
        consumed = request.initial_state.position if request.initial_state else 0
        position = consumed + len(request.prompt)
        assert constraint is None or len(constraint.token_class) == self._bias.shape[1]
        self._constraints[row] = constraint
        self._rows[row] = (
            *_parameters_of(params),
            position,
            request.top_tokens,
            bool(params.logit_bias),
            has_penalty,
            0,
            0,
            0,
            0 if constraint is None else constraint.table.ctypes.data,
            0 if constraint is None else constraint.table.size,
            START,
            request.max_new_tokens,
            max(0, request.min_new_tokens - len(request.stop_context)),
            request.ignore_eos,
            False,
        )
        if params.logit_bias:
            self._bias[row] = 0.0
            for token, bias in params.logit_bias:
                self._bias[row, token] = bias
        if has_penalty:
            context = np.asarray(
                [*request.penalty_context, *request.prompt][-PENALTY_WINDOW:], np.int32
            )
            columns = np.arange(position - len(context), position) % PENALTY_WINDOW
            self._window[row, columns] = context
            self._counts[row] = np.bincount(context, minlength=self._counts.shape[1])
            self._rows["window_length"][row] = len(context)

    def feed(self, row: int, tokens: Sequence[int], n_prompt: int) -> None:
        """Give a row these tokens, at most MAX_STEPS, before it samples in the next burst.

        The first `n_prompt` belong to its prompt; the others are reported as if they were sampled.
        """
        self._feed[row, : len(tokens)] = tokens
        self._rows["n_fed"][row], self._rows["n_prompt"][row] = len(tokens), n_prompt

    def swap(self, a: int, b: int) -> None:
        """Exchange two rows."""
        tables: list[npt.NDArray[Any]] = [self._rows]
        if self._rows["has_bias"][[a, b]].any():
            tables.append(self._bias)
        if self._rows["has_penalty"][[a, b]].any():
            tables += [self._counts, self._window]
        for table in tables:
            table[[a, b]] = table[[b, a]]
        constraints = self._constraints
        constraints[a], constraints[b] = constraints[b], constraints[a]

    def advance(self, batch: Batch, rows: int, step: int) -> None:
        """Give each row its next token, fed or sampled, after step number `step` of a burst."""
        advance_rows(self.arguments, batch.logits, batch.tokens, 0, rows, step)

    def take(self, rows: int, steps: int) -> Samples:
        """Return the samples of the burst that has ended, and clear its feeds."""
        self._rows["n_fed"][:rows] = self._rows["n_prompt"][:rows] = 0
        is_over = self._rows["has_ended"][:rows] != 0
        for row in np.flatnonzero(self._rows["table"][:rows]).tolist():
            constraint = self._constraints[row]
            state, remaining = self._rows[["state", "remaining"]][row].tolist()
            is_over[row] |= constraint is not None and constraint.is_over(state, remaining)
        tokens, logprobs, top_tokens, top_logprobs = self._outputs
        return Samples(
            tokens[:rows, :steps],
            logprobs[:rows, :steps],
            top_tokens[:rows, :steps],
            top_logprobs[:rows, :steps],
            is_over,
        )


def logsumexp(logits: FloatArray) -> npt.NDArray[np.float64]:
    """Log Σ exp of each row's logits, (rows,); NaN if they are not finite numbers."""
    return np.array([_logsumexp(row) for row in logits])


@njit(cache=True, nogil=True, error_model="numpy")
def _logsumexp(logits):  # type: ignore[no-untyped-def]
    """Log Σ exp(logits); NaN if the logits are not finite numbers."""
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
def _penalise(scores, counts, params):  # type: ignore[no-untyped-def]
    repetition = params.repetition_penalty
    for i in range(len(scores)):
        if counts[i] > 0:
            scores[i] = scores[i] / repetition if scores[i] > 0 else scores[i] * repetition
            scores[i] -= params.frequency_penalty * counts[i] + params.presence_penalty


@njit(cache=True, nogil=True, error_model="numpy")
def _nucleus_size(weights, order, kept, mass):  # type: ignore[no-untyped-def]
    """How many of the first `kept` in `order` together have `mass` of their total weight."""
    total = 0.0
    for k in range(kept):
        total += weights[order[k]]
    cumulative = 0.0
    for k in range(kept):
        cumulative += weights[order[k]]
        if cumulative >= mass * total:
            return k + 1
    return kept


@njit(cache=True, nogil=True, error_model="numpy")
def _filter(weights, params):  # type: ignore[no-untyped-def]
    """Set the weights to zero that top-k, top-p, min-p and typical-p exclude."""
    order = np.argsort(-weights, kind="mergesort")
    kept = len(weights)
    if params.top_k > 0:
        kept = min(kept, params.top_k)
    if params.top_p < 1.0:
        kept = _nucleus_size(weights, order, kept, params.top_p)
    if params.min_p > 0.0:
        least, k = params.min_p * weights[order[0]], 1
        while k < kept and weights[order[k]] >= least:
            k += 1
        kept = k
    if params.typical_p < 1.0:
        order = _by_typicality(weights, order[:kept])
        kept = _nucleus_size(weights, order, len(order), params.typical_p)
    for k in range(kept):
        weights[order[k]] = -weights[order[k]]
    for i in range(len(weights)):
        weights[i] = -weights[i] if weights[i] < 0.0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _by_typicality(weights, order):  # type: ignore[no-untyped-def]
    """`order` sorted by the distance of each token's surprisal from the entropy."""
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
def _choose(scores, params):  # type: ignore[no-untyped-def]
    """Apply temperature and filters to scores, (vocabulary,) float64, and sample a token.

    Overwrites the scores. Returns -1 if no token can be sampled.
    """
    best = 0
    for i in range(len(scores)):
        if scores[i] > scores[best]:
            best = i
    if scores[best] == -np.inf:
        return -1
    temperature = params.temperature
    if temperature == 0.0:
        return best
    largest = scores[best]
    for i in range(len(scores)):
        # From here on the scores are unnormalized probabilities, no longer logits.
        scores[i] = np.exp((scores[i] - largest) / temperature)
    if params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0 or params.typical_p < 1.0:
        _filter(scores, params)
    total = 0.0
    for w in scores:
        total += w
    threshold = uniform(params.seed, np.uint64(params.position)) * total
    total_so_far, last = 0.0, best
    for i in range(len(scores)):
        if scores[i] > 0.0:
            total_so_far += scores[i]
            last = i
            if total_so_far > threshold:
                break
    return last


@njit(cache=True, nogil=True, error_model="numpy")
def _top(logits, lse, tokens, logprobs, n):  # type: ignore[no-untyped-def]
    """Write the n most likely tokens and their logprobs, the most likely first."""
    n_found = 0
    for i in range(len(logits)):
        value = np.float64(logits[i]) - lse
        if n_found == n and value <= logprobs[n - 1]:
            continue
        k = n_found if n_found < n else n - 1
        while k > 0 and logprobs[k - 1] < value:
            logprobs[k], tokens[k] = logprobs[k - 1], tokens[k - 1]
            k -= 1
        logprobs[k], tokens[k] = value, i
        n_found = min(n_found + 1, n)


@njit(cache=True, nogil=True, error_model="numpy")
def advance_rows(arguments, logits, tokens, first, last, step):  # type: ignore[no-untyped-def]
    """Give the rows from `first` to `last` their next tokens.

    Threads may do this for disjoint ranges at a time. `logits` is (rows, vocabulary) float32 and
    read, `tokens` is (rows,) int64 and written.
    """
    params, feed, bias, counts, window, allowed, end_ids = arguments[:7]
    out_tokens, out_logprobs, out_top_tokens, out_top_logprobs = arguments[7:]
    vocabulary = logits.shape[1]
    scores = np.empty(vocabulary)
    for row in range(first, last):
        slot = params[row]
        if step < slot.n_prompt:
            tokens[row] = feed[row, step]
            continue
        table, size, state = slot.table, slot.table_size, slot.state
        is_sampled = step >= slot.n_fed
        if slot.has_ended:
            out_tokens[row, step] = ENDED
            tokens[row] = 0
            continue
        if table and is_sampled and is_over(table, size, vocabulary, state, slot.remaining):
            out_tokens[row, step] = ENDED
            tokens[row] = 0
            continue
        lse = _logsumexp(logits[row])
        token = -1
        if not is_sampled and lse == lse:  # noqa: PLR0124 (not NaN)
            token = feed[row, step]
        elif lse == lse:  # noqa: PLR0124
            for i in range(vocabulary):
                scores[i] = logits[row, i] if allowed[i] else -np.inf
            if slot.least > 0:
                for i in end_ids:
                    scores[i] = -np.inf
            if table:
                mask(scores, table, size, state, slot.remaining)
            if slot.has_penalty:
                _penalise(scores, counts[row], slot)
            if slot.has_bias:
                for i in range(vocabulary):
                    scores[i] += bias[row, i]
            token = _choose(scores, slot)
        out_tokens[row, step] = token
        if token < 0:
            tokens[row] = 0
            continue
        out_logprobs[row, step] = logits[row, token] - lse
        if slot.top_tokens > 0:
            n = min(slot.top_tokens, vocabulary)
            _top(logits[row], lse, out_top_tokens[row, step], out_top_logprobs[row, step], n)
        if slot.has_penalty:
            column = slot.position % PENALTY_WINDOW
            if slot.window_length == PENALTY_WINDOW:
                counts[row, window[row, column]] -= 1
            else:
                slot.window_length += 1
            window[row, column] = token
            counts[row, token] += 1
        slot.position += 1
        slot.least -= 1
        for i in end_ids:
            if token == i and not slot.ignores_end:
                slot.has_ended = 1
        if table:
            slot.state = follow(table, size, vocabulary, state, token)
            slot.remaining -= 1
        tokens[row] = token
