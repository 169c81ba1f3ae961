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
from service.generation.filters import apply_filters
from service.generation.plan import SavedSampling
from service.generation.random import uniform
from service.generation.request import (
    MAX_LOGIT_BIASES,
    MAX_TOP_TOKENS,
    PENALTY_WINDOW,
    GenerationRequest,
)
from service.generation.softmax import (
    NARROW,
    exponentials,
    index_at,
    maximum,
    n_blocks,
    sum_block,
    sum_blocks,
)
from service.models.step import Batch

CALLED_KERNELS = "b3496861317327ae"
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
        ("n_biases", np.int64),
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
    """Samples the tokens of a slot table. Belongs to one thread; `advance` releases the GIL."""

    def __init__(
        self,
        vocabulary_size: int,
        capacity: int,
        suppressed_ids: Sequence[int] = (),
        end_ids: Sequence[int] = (),
    ) -> None:
        """Tokens of `suppressed_ids` are never sampled; one of `end_ids` ends its row."""
        self._rows = np.zeros(capacity, _ROW)
        fields = ("n_fed", "n_prompt", "has_ended")
        self._n_fed, self._n_prompt, self._has_ended = map(self._rows.__getitem__, fields)  # views
        self._feed = np.zeros((capacity, MAX_STEPS), np.int64)
        self._bias_tokens = np.zeros((capacity, MAX_LOGIT_BIASES), np.int32)
        self._biases = np.zeros((capacity, MAX_LOGIT_BIASES))
        # the system allocates pages of it only for rows with a penalty
        self._counts = np.zeros((capacity, vocabulary_size), np.int16)
        self._window = np.zeros((capacity, PENALTY_WINDOW), np.int32)
        self._constraints: list[Constraint | None] = [None] * capacity  # keeps the tables alive
        self._vocabulary_size = vocabulary_size
        shape = (capacity, MAX_STEPS)
        top_shape = (*shape, MAX_TOP_TOKENS)
        self._outputs = (  # the columns of Samples
            *(np.zeros(shape, np.int32), np.zeros(shape)),
            *(np.zeros(top_shape, np.int32), np.zeros(top_shape)),
        )
        self.arguments = (  # of `advance_rows`
            *(self._rows, self._feed, self._bias_tokens, self._biases),
            *(self._counts, self._window),
            np.array([*suppressed_ids, *end_ids], np.int64),  # excluded: end tokens only for a time
            np.array(end_ids, np.int64),
            *self._outputs,
        )

    def start(self, row: int, request: GenerationRequest) -> None:
        """Put a request's parameters into a row. It has at most MAX_LOGIT_BIASES biases."""
        params, constraint = request.sampling, request.constraint
        biases = dict(params.logit_bias)
        has_penalty = (
            params.repetition_penalty != 1.0
            or params.frequency_penalty != 0.0
            or params.presence_penalty != 0.0
        )
        consumed = request.initial_state.position if request.initial_state else 0
        position = consumed + len(request.prompt)
        assert constraint is None or len(constraint.token_class) == self._vocabulary_size
        self._constraints[row] = constraint
        self._rows[row] = (
            *_parameters_of(params),
            position,
            request.top_tokens,
            len(biases),
            has_penalty,
            *(0, 0, 0),  # window_length, n_fed, n_prompt
            0 if constraint is None else constraint.table.ctypes.data,
            0 if constraint is None else constraint.table.size,
            START,
            request.max_new_tokens,
            max(0, request.min_new_tokens - len(request.stop_context)),
            request.ignore_eos,
            False,
        )
        for k, (token, bias) in enumerate(biases.items()):
            self._bias_tokens[row, k], self._biases[row, k] = token, bias
        if has_penalty:
            context = [*request.penalty_context, *request.prompt][-PENALTY_WINDOW:]
            self._put_window(row, np.asarray(context, np.int32))

    def _put_window(self, row: int, context: npt.NDArray[np.int32]) -> None:
        """Let the penalties count these tokens, the last ones before the row's position."""
        self._window[row, self._columns(row, len(context))] = context
        self._counts[row] = np.bincount(context, minlength=self._counts.shape[1])
        self._rows["window_length"][row] = len(context)

    def _columns(self, row: int, length: int) -> npt.NDArray[np.int64]:
        """The columns of the last `length` tokens in a row's window, oldest first."""
        position = int(self._rows["position"][row])
        return np.arange(position - length, position) % PENALTY_WINDOW

    def save(self, row: int) -> SavedSampling:
        """Return what `restore` needs to continue a row."""
        own = self._rows[row].copy()
        n, columns = int(own["n_biases"]), self._columns(row, int(own["window_length"]))
        biases = self._bias_tokens[row, :n].copy(), self._biases[row, :n].copy()
        return SavedSampling(own, *biases, self._window[row, columns], self._constraints[row])

    def restore(self, row: int, saved: SavedSampling) -> None:
        """Continue in a row what `save` returned, bit for bit."""
        self._rows[row] = saved.parameters
        n = len(saved.biases)
        self._bias_tokens[row, :n], self._biases[row, :n] = saved.bias_tokens, saved.biases
        self._constraints[row] = saved.constraint
        if saved.parameters["has_penalty"]:
            self._put_window(row, saved.window)

    def feed(self, row: int, tokens: Sequence[int], n_prompt: int) -> None:
        """Give a row these tokens, at most MAX_STEPS, before it samples in the next burst.

        The first `n_prompt` belong to its prompt; the others are reported as if they were sampled.
        """
        self._feed[row, : len(tokens)] = tokens
        self._n_fed[row], self._n_prompt[row] = len(tokens), n_prompt

    def swap(self, a: int, b: int) -> None:
        """Exchange two rows."""
        tables: list[npt.NDArray[Any]] = [self._rows]
        if self._rows["n_biases"][[a, b]].any():
            tables += [self._bias_tokens, self._biases]
        if self._rows["has_penalty"][[a, b]].any():
            tables += [self._counts, self._window]
        for table in tables:
            table[[a, b]] = table[[b, a]]
        constraints = self._constraints
        constraints[a], constraints[b] = constraints[b], constraints[a]

    def advance(self, batch: Batch, rows: int, step: int, first: int = 0) -> None:
        """Give each row from `first` its next token, fed or sampled, after step number `step`.

        Other threads may do so for other rows at the same time.
        """
        advance_rows(self.arguments, batch.logits, batch.tokens, first, rows, step)

    def take(self, rows: int, steps: int) -> Samples:
        """Return the samples of the burst that has ended, and clear its feeds."""
        self._n_fed[:rows] = self._n_prompt[:rows] = 0
        is_over = self._has_ended[:rows] != 0
        for row, constraint in enumerate(self._constraints[:rows]):
            if constraint is not None:
                state, remaining = self._rows[["state", "remaining"]][row].tolist()
                is_over[row] |= constraint.is_over(state, remaining)
        tokens, logprobs, top_tokens, top_logprobs = self._outputs
        return Samples(
            tokens[:rows, :steps],
            logprobs[:rows, :steps],
            top_tokens[:rows, :steps],
            top_logprobs[:rows, :steps],
            is_over,
        )


@njit(cache=True, nogil=True, error_model="numpy")
def _penalise(scores, counts, window, params):  # type: ignore[no-untyped-def]
    if len(scores) <= PENALTY_WINDOW:
        for i in range(len(scores)):
            if counts[i] > 0:
                scores[i] = _penalised(scores[i], counts[i], params)
        return
    for token in window[: params.window_length]:
        if counts[token] > 0:
            scores[token] = _penalised(scores[token], counts[token], params)
            counts[token] = -counts[token]  # each token once
    for token in window[: params.window_length]:
        counts[token] = abs(counts[token])


@njit(nogil=True, inline="always", error_model="numpy")
def _penalised(score, count, params):  # type: ignore[no-untyped-def]
    repetition = params.repetition_penalty
    score = score / repetition if score > 0 else score * repetition
    return score - (params.frequency_penalty * count + params.presence_penalty)


@njit(cache=True, nogil=True, error_model="numpy")
def _choose(scores, weights, sums, params):  # type: ignore[no-untyped-def]
    """Apply temperature and filters to scores, (vocabulary,) float64, and sample a token.

    Overwrites `weights` and `sums`. Returns -1 if no token can be sampled.
    """
    best = -np.inf
    for score in scores:
        best = max(best, score)
    if best == -np.inf:
        return -1
    temperature = params.temperature
    if temperature == 0.0:
        token = 0
        while scores[token] != best:
            token += 1
        return token
    exponentials(scores, best, temperature, weights)
    sum_blocks(weights, sums)
    return _draw(weights, sums, params)


@njit(cache=True, nogil=True, error_model="numpy")
def _draw(weights, sums, params):  # type: ignore[no-untyped-def]
    """Apply the filters to the weights, of which the largest is 1, and sample a token.

    `sums` are those of the weights' blocks.
    """
    if params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0 or params.typical_p < 1.0:
        apply_filters(weights, params)
        sum_blocks(weights, sums)
    return index_at(weights, sums, uniform(params.seed, np.uint64(params.position)))


@njit(cache=True, nogil=True, error_model="numpy")
def _is_plain(logits, largest, excluded, params):  # type: ignore[no-untyped-def]
    """Whether the scores are the logits but for `excluded` tokens, which have smaller logits."""
    for i in excluded:
        if logits[i] == largest:
            return False
    return not (params.table or params.has_penalty or params.n_biases or params.temperature == 0.0)


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
    params, feed, bias_tokens, biases, counts, window, excluded, end_ids = arguments[:8]
    out_tokens, out_logprobs, out_top_tokens, out_top_logprobs = arguments[8:]
    vocabulary = logits.shape[1]
    n_suppressed = len(excluded) - len(end_ids)
    scores, weights = np.empty(vocabulary), np.empty(vocabulary)
    sums = np.empty(n_blocks(vocabulary))
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
        largest = maximum(logits[row])
        exponentials(logits[row], largest, 1.0, weights)
        lse = largest + np.log(sum_blocks(weights, sums))
        token = -1
        if not is_sampled and lse == lse:  # noqa: PLR0124 (not NaN)
            token = feed[row, step]
        elif lse == lse:  # noqa: PLR0124
            n_excluded = len(excluded) if slot.least > 0 else n_suppressed
            if _is_plain(logits[row], largest, excluded[:n_excluded], slot):
                if slot.temperature != 1.0:
                    exponentials(logits[row], largest, slot.temperature, weights)
                    sum_blocks(weights, sums)
                for i in excluded[:n_excluded]:
                    weights[i] = 0.0
                    sum_block(weights, sums, i // NARROW)
                token = _draw(weights, sums, slot)
            else:
                for i in range(vocabulary):
                    scores[i] = logits[row, i]
                for i in excluded[:n_excluded]:
                    scores[i] = -np.inf
                if table:
                    mask(scores, table, size, state, slot.remaining)
                if slot.has_penalty:
                    _penalise(scores, counts[row], window[row], slot)
                for k in range(slot.n_biases):
                    scores[bias_tokens[row, k]] += biases[row, k]
                token = _choose(scores, weights, sums, slot)
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
