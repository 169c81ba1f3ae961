"""The deviation of compiled programs from the reference, and the choice of a precision by it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from service.errors import BadCheckpoint, Validation
from service.models.bundle import Bundle, Parity, Precision, WantedPrecision
from service.models.compile import compile_program
from service.models.reference import ReferenceModel
from service.models.spec import FloatArray, ModelSpec, Weights
from service.models.step import StepProgram
from service.models.window_parity import (
    carried_spec,
    compare_with_carried,
    compared_logits,
    given,
    log_probabilities,
    sampled,
)

RANDOM_TOKENS = 256
CHARACTERS = 2000
MAX_INT8_COST = 0.005
"""Nats per character that int8 may cost over float32 for `auto` to choose it."""

LOAD_TOKENS = 16
MAX_DEVIATION = {Precision.FLOAT32: 1e-3, Precision.INT8: 0.1, Precision.FLOAT16: 0.02}
"""Largest deviation of a program at load, as a share of the largest logit."""

_SEED = 0x1997

Tokens = npt.NDArray[np.int64]
Compiler = Callable[[ModelSpec, Weights, Precision], StepProgram]


@dataclass(frozen=True, slots=True)
class ParityResult:
    """The parity of a manifest, the precision to serve with, and the reason for it."""

    parity: Parity
    precision: Precision
    reason: str


def measure(
    spec: ModelSpec,
    weights: Weights,
    wanted: WantedPrecision,
    special_ids: Sequence[int] = (),
    text: Sequence[int] = (),
    *,
    max_int8_cost: float = MAX_INT8_COST,
    compiler: Compiler = compile_program,
) -> ParityResult:
    """Compare the compiled programs with the float64 reference, and int8 with float32.

    The largest |Δlogit| is over 256 random tokens. The cost of int8 is over 2,000 characters that
    are sampled from the float32 program at temperature 1, without special ids. A windowed model is
    compared with carried state, too, on such characters and on the tokens of its training `text`;
    it has fewer of all, where they would take long. Raises Validation if int8 is wanted, but some h
    is not within (-1, 1); BadCheckpoint if the logits of the model overflow.
    """
    rng = np.random.default_rng(_SEED)
    random_tokens = rng.integers(spec.vocabulary_size, size=RANDOM_TOKENS)
    if spec.window is not None:
        return _measure_window(spec, weights, wanted, special_ids, text, rng, compiler)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = ReferenceModel(spec, weights).run(random_tokens.tolist())
    programs = {Precision.FLOAT32: compiler(spec, weights, Precision.FLOAT32)}
    if wanted == "int8" or spec.is_bounded:
        programs[Precision.INT8] = compiler(spec, weights, Precision.INT8)
    logits = {p: _logits(program, random_tokens) for p, program in programs.items()}
    _check_finite(expected, *logits.values())
    differences = {p: float(np.abs(rows - expected).max()) for p, rows in logits.items()}
    own = _sample(programs[Precision.FLOAT32], spec, rng, special_ids)
    nats = {p: _nats(program, own, special_ids) for p, program in programs.items()}
    parity = Parity(
        tokens=RANDOM_TOKENS,
        largest_logit_difference=differences,
        characters=CHARACTERS,
        nats_per_character=nats,
    )
    return ParityResult(parity, *_choose(wanted, nats, max_int8_cost))


def cost_over_float32(
    program: StepProgram,
    spec: ModelSpec,
    weights: Weights,
    special_ids: Sequence[int] = (),
    seed: int = _SEED,
) -> float:
    """Return the nats per character that a program costs over float32.

    The characters are those of `measure`, unless another `seed` is given. Blocks for seconds.
    """
    exact = compile_program(spec, weights, Precision.FLOAT32)
    own = _sample(exact, spec, np.random.default_rng(seed), special_ids)
    return _nats(program, own, special_ids) - _nats(exact, own, special_ids)


def check_here(program: StepProgram, bundle: Bundle, precision: Precision) -> None:
    """Compare a compiled program with the reference on the machine that serves it.

    A bundle may come from another machine, whose kernels compute other sums.
    Raises BadCheckpoint if the logits deviate more than the precision explains.
    """
    tokens = np.random.default_rng(_SEED).integers(bundle.spec.vocabulary_size, size=LOAD_TOKENS)
    if bundle.spec.window is None:
        expected = ReferenceModel(bundle.spec, bundle.weights).run(tokens.tolist())
        logits = _logits(program, tokens)
    else:
        logits, expected = compared_logits(program, bundle.spec, bundle.weights, tokens)
    if not np.isfinite(expected).all():
        return  # the overflow is reported for each generation
    deviation = float(np.abs(logits - expected).max())
    limit = MAX_DEVIATION[precision] * max(1.0, float(np.abs(expected).max()))
    if not deviation <= limit:
        raise BadCheckpoint(
            f"on this machine the logits of {precision} deviate by {deviation:.3g} from the "
            f"reference; the limit is {limit:.3g}: load the model in float32, or report the machine"
        )


def _measure_window(
    spec: ModelSpec,
    weights: Weights,
    wanted: WantedPrecision,
    special_ids: Sequence[int],
    text: Sequence[int],
    rng: np.random.Generator,
    compiler: Compiler,
) -> ParityResult:
    if wanted == "int8":
        raise Validation("a model that reads a window for each token is served in float32")
    random_tokens = rng.integers(spec.vocabulary_size, size=RANDOM_TOKENS)
    program = compiler(spec, weights, Precision.FLOAT32)
    logits, expected = compared_logits(program, spec, weights, random_tokens)
    _check_finite(logits, expected)
    own, records = sampled(program, spec, rng, special_ids), []
    keeps_first = spec.window is not None and spec.window.keeps_first
    whole = None if keeps_first else given(program, spec, text, special_ids)
    other = carried_spec(spec)
    if other is not None:
        carried = compiler(other, weights, Precision.FLOAT32)
        records = [
            read and compare_with_carried(carried, read, special_ids) for read in (own, whole)
        ]
    of_own, of_text = records or (None, None)
    parity = Parity(
        tokens=len(expected),
        largest_logit_difference={Precision.FLOAT32: float(np.abs(logits - expected).max())},
        characters=own.most_likely.size,
        nats_per_character={Precision.FLOAT32: own.nats},
        window=of_own,
        window_of_text=of_text,
    )
    reason = "int8 is not used for a model that reads a window for each token"
    return ParityResult(
        parity, Precision.FLOAT32, reason if wanted == "auto" else "float32 was requested"
    )


def _check_finite(*logits: npt.NDArray[np.floating]) -> None:
    if not all(np.isfinite(rows).all() for rows in logits):
        raise BadCheckpoint(
            f"the model's logits overflow within {RANDOM_TOKENS} random characters: its weights "
            "are too large for its activations"
        )


def _choose(
    wanted: WantedPrecision, nats: dict[Precision, float], max_int8_cost: float
) -> tuple[Precision, str]:
    if Precision.INT8 not in nats:
        reason = "int8 needs tanh and sigmoid gates in every layer, which this model lacks"
        return Precision.FLOAT32, reason if wanted == "auto" else "float32 was requested"
    cost = nats[Precision.INT8] - nats[Precision.FLOAT32]
    record = f"int8 costs {round(cost, 4) + 0.0} nats per character over float32"
    if wanted != "auto":
        return Precision(wanted), f"{wanted} was requested; {record}"
    if cost <= max_int8_cost:
        return Precision.INT8, f"{record}, within the {max_int8_cost} that auto allows"
    return Precision.FLOAT32, f"{record}, more than the {max_int8_cost} that auto allows"


def _stepper(program: StepProgram) -> Callable[[int], FloatArray]:
    """Return a function that feeds a token and returns the logits after it, until the next call."""
    batch = program.new_batch(1)

    def step(token: int) -> FloatArray:
        batch.tokens[0] = token
        program.step(batch, 1)
        logits: FloatArray = batch.logits[0]
        return logits

    return step


def _logits(program: StepProgram, tokens: Tokens) -> FloatArray:
    """Feed tokens from the zero state; return the logits after each: (tokens, vocabulary)."""
    step = _stepper(program)
    return np.stack([step(token).copy() for token in tokens])


def _sample(
    program: StepProgram, spec: ModelSpec, rng: np.random.Generator, special_ids: Sequence[int]
) -> Tokens:
    """Sample a random token and the 2,000 that the program predicts after it."""
    step = _stepper(program)
    allowed = np.setdiff1d(np.arange(spec.vocabulary_size), special_ids)
    text = np.empty(1 + CHARACTERS, np.int64)
    text[0] = rng.choice(allowed)
    for i, uniform in enumerate(rng.random(CHARACTERS)):
        cumulative = np.exp(_log_probabilities(step(text[i]), special_ids)).cumsum()
        sampled = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
        text[i + 1] = min(sampled, spec.vocabulary_size - 1)
    return text


def _nats(program: StepProgram, text: Tokens, special_ids: Sequence[int]) -> float:
    """Compute the program's mean cross-entropy over the tokens after the first, in nats."""
    step = _stepper(program)
    total = 0.0
    for token, following in pairwise(text):
        total -= float(_log_probabilities(step(token), special_ids)[following])
    return total / (len(text) - 1)


def _log_probabilities(logits: FloatArray, special_ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """Compute the log-softmax of one row, (vocabulary,), without special ids."""
    row: npt.NDArray[np.float64] = log_probabilities(logits[None], special_ids)[0]
    return row
