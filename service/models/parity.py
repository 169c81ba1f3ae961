"""How far a compiled program strays from the reference, and which precision that recommends."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from service.errors import BadCheckpoint
from service.models.bundle import Bundle, Parity, Precision, WantedPrecision
from service.models.compile import compile_program
from service.models.reference import ReferenceModel
from service.models.spec import FloatArray, ModelSpec, Weights
from service.models.step import StepProgram

RANDOM_TOKENS = 256
CHARACTERS = 2000
MAX_INT8_COST = 0.005
"""Nats a character that int8 may cost over float32 for `auto` to take it."""

TOKENS_HERE = 16
MAX_STRAY = {Precision.FLOAT32: 1e-3, Precision.INT8: 0.1}
"""How far a program may stray at load, as a share of the largest logit."""

_SEED = 0x1997

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The record that goes into a manifest, the precision to serve with and the reason."""

    parity: Parity
    precision: Precision
    reason: str


def measure(
    spec: ModelSpec, weights: Weights, wanted: WantedPrecision, special_ids: Sequence[int] = ()
) -> Verdict:
    """Run the compiled program against the float64 reference, and int8 against float32.

    The largest |Δlogit| is over 256 random tokens. The cost of int8 is over 2,000 characters that
    the float32 program draws itself, at temperature 1 and never a special id.

    Raises:
        Validation: int8 is wanted, but an h is not bound to (-1, 1).
        BadCheckpoint: the logits of the model overflow.

    """
    rng = np.random.default_rng(_SEED)
    random_tokens = rng.integers(spec.vocabulary_size, size=RANDOM_TOKENS)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = ReferenceModel(spec, weights).run(random_tokens.tolist())
    programs = {Precision.FLOAT32: compile_program(spec, weights, Precision.FLOAT32)}
    if wanted == "int8" or spec.is_bounded:
        programs[Precision.INT8] = compile_program(spec, weights, Precision.INT8)
    logits = {p: _logits(program, random_tokens) for p, program in programs.items()}
    overflows = not np.isfinite(expected).all()
    overflows |= not all(np.isfinite(rows).all() for rows in logits.values())
    if overflows:
        raise BadCheckpoint(
            f"the model's logits overflow within {RANDOM_TOKENS} random characters: its weights "
            "are too large for its activations"
        )
    differences = {p: float(np.abs(rows - expected).max()) for p, rows in logits.items()}
    text = _draw(programs[Precision.FLOAT32], spec, rng, special_ids)
    nats = {p: _nats(program, text, special_ids) for p, program in programs.items()}
    parity = Parity(
        tokens=RANDOM_TOKENS,
        largest_logit_difference=differences,
        characters=CHARACTERS,
        nats_per_character=nats,
    )
    return Verdict(parity, *_choose(wanted, nats))


def check_here(program: StepProgram, bundle: Bundle, precision: Precision) -> None:
    """Run a compiled program against the reference on the machine that is to serve it.

    A bundle may come from another machine, whose kernels compute other sums.

    Raises:
        BadCheckpoint: the logits stray further than the precision explains.

    """
    tokens = np.random.default_rng(_SEED).integers(bundle.spec.vocabulary_size, size=TOKENS_HERE)
    expected = ReferenceModel(bundle.spec, bundle.weights).run(tokens.tolist())
    if not np.isfinite(expected).all():
        return  # such a model's rows fail by themselves
    strayed = float(np.abs(_logits(program, tokens) - expected).max())
    limit = MAX_STRAY[precision] * max(1.0, float(np.abs(expected).max()))
    if not strayed <= limit:
        raise BadCheckpoint(
            f"on this machine {precision} strays by {strayed:.3g} from the reference's logits; "
            f"{limit:.3g} is the limit: load the model with precision float32, or report it"
        )


def _choose(wanted: WantedPrecision, nats: dict[Precision, float]) -> tuple[Precision, str]:
    if Precision.INT8 not in nats:
        reason = "int8 needs tanh and sigmoid gates in every layer, which this model has not"
        return Precision.FLOAT32, reason if wanted == "auto" else "float32 was asked for"
    cost = nats[Precision.INT8] - nats[Precision.FLOAT32]
    record = f"int8 costs {round(cost, 4) + 0.0} nats a character over float32"
    if wanted != "auto":
        return Precision(wanted), f"{wanted} was asked for; {record}"
    if cost <= MAX_INT8_COST:
        return Precision.INT8, f"{record}, within the {MAX_INT8_COST} that auto allows"
    return Precision.FLOAT32, f"{record}, more than the {MAX_INT8_COST} that auto allows"


def _logits(program: StepProgram, tokens: Tokens) -> FloatArray:
    """Feed tokens from the zero state; the logits after each: (tokens, vocabulary)."""
    batch = program.new_batch(1)
    rows = np.empty((len(tokens), program.vocabulary_size), np.float32)
    for i, token in enumerate(tokens):
        batch.tokens[0] = token
        program.step(batch, 1)
        rows[i] = batch.logits[0]
    return rows


def _draw(
    program: StepProgram, spec: ModelSpec, rng: np.random.Generator, special_ids: Sequence[int]
) -> Tokens:
    """A random token and the 2,000 that the program writes after it."""
    batch = program.new_batch(1)
    allowed = np.setdiff1d(np.arange(spec.vocabulary_size), special_ids)
    text = np.empty(1 + CHARACTERS, np.int64)
    text[0] = rng.choice(allowed)
    for i, uniform in enumerate(rng.random(CHARACTERS)):
        batch.tokens[0] = text[i]
        program.step(batch, 1)
        cumulative = np.exp(_log_probabilities(batch.logits[0], special_ids)).cumsum()
        drawn = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
        text[i + 1] = min(drawn, spec.vocabulary_size - 1)
    return text


def _nats(program: StepProgram, text: Tokens, special_ids: Sequence[int]) -> float:
    """Mean surprise of the program at each token after the first."""
    batch = program.new_batch(1)
    total = 0.0
    for token, following in pairwise(text):
        batch.tokens[0] = token
        program.step(batch, 1)
        total -= float(_log_probabilities(batch.logits[0], special_ids)[following])
    return total / (len(text) - 1)


def _log_probabilities(logits: FloatArray, special_ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """Of one row, (vocabulary,), with nothing left for special ids."""
    scores = logits.astype(np.float64)
    scores[list(special_ids)] = -np.inf
    scores -= scores.max()
    log_probabilities: npt.NDArray[np.float64] = scores - np.log(np.exp(scores).sum())
    return log_probabilities
