"""What goes into a generation and what comes out: frozen values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from service.constraints.constraint import Constraint
from service.models.step import State

PENALTY_WINDOW = 1_024
"""Penalties look at this many of the latest tokens, prompt and output together."""

MAX_TOP_TOKENS = 20
"""How many of the likeliest tokens may be asked for beside each drawn one."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a token is chosen from logits. The defaults draw from the model as it is.

    Order: penalties and bias on the logits, temperature, then top-k, top-p, min-p and typical-p
    each keep a part of what the one before has left. `temperature` 0 takes the likeliest token.
    A draw depends on (`seed`, position) alone; `seed` has 64 bits.
    """

    seed: int
    temperature: float = 1.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt and the limits of its generation. The caller has checked every value.

    A generation that continues an earlier text has an `initial_state`. `forced_tokens` were sampled
    earlier: each takes the place of a sampled token (teacher forcing), is counted and returned as
    one, and sampling continues after the last of them.

    A constraint applies to all generated tokens, the forced ones included, and to nothing before
    them; it fits into `max_new_tokens` (`Constraint.check_fits`).
    """

    prompt: Sequence[int]  # token ids, at least one
    max_new_tokens: int  # 0: only consume the prompt, all but its last token
    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    top_tokens: int = 0
    initial_state: State | None = None  # where the prompt begins; None: the zero state, position 0
    penalty_context: Sequence[int] = ()  # the tokens before the prompt, for penalties
    stop_context: str = ""  # the end of what was generated before `forced_tokens`, for stop strings
    forced_tokens: Sequence[int] = ()  # at most max_new_tokens
    return_state: bool = False  # whether chunks bring states
    constraint: Constraint | None = None
    min_new_tokens: int = 0  # before them no stop string begins
    deadline_s: float | None = None  # by the clock on the wall: then it ends with what it has


LEAST_REPETITION, MOST_REPETITION = 0.01, 100.0
"""Of a repetition penalty: within them no logit of float32 becomes infinite."""


class FinishReason(StrEnum):
    """Why a generation ended by itself."""

    EOS_TOKEN = "eos_token"  # noqa: S105 (TGI's word for a text that its constraint has closed)
    LENGTH = "length"
    STOP_SEQUENCE = "stop_sequence"


@dataclass(frozen=True, slots=True)
class Token:
    """A token and the natural logarithm of the model's own probability for it.

    The logprob is of the model's logits as they are, before any sampling parameter.
    """

    id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a generation. `generated_tokens` counts every draw, those of a stop string too.

    `stop` is the stop string that ended it, and `stop_token` its last draw; no chunk shows it.
    """

    reason: FinishReason
    generated_tokens: int
    stop_token: Token | None = None
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one burst added to a stream: tokens in order, and the end if it was reached.

    Columns rather than rows: a chunk is turned into bytes once a burst, and this is the hot path.
    `top_tokens` has one entry a token where the request asked for them, else it is empty. `drawn`
    is what the network went on with: ahead of `tokens` by what a stop string or a deadline holds
    back. `state` is the latest that has consumed nothing but the prompt and tokens drawn so far. A
    chunk may have a state alone, while the prompt is fed.
    """

    tokens: Sequence[int]
    logprobs: Sequence[float]
    top_tokens: Sequence[Sequence[Token]] = field(default=())
    finish: Finish | None = None
    sampled: Sequence[int] = field(default=())
    state: State | None = None
