"""Requests of the engine and the chunks of its results: frozen values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from service.constraints.constraint import Constraint
from service.generation.request_timing import RequestTiming
from service.models.steering import Steering
from service.models.step import State

PENALTY_WINDOW = 1_024  # penalties count this many of the latest tokens, prompt and output together

MAX_LOGIT_BIASES = 1_024  # of a request

MAX_TOP_TOKENS = 20  # most likely tokens that a request may have beside each sampled one, at most


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a token is sampled from logits. The defaults sample from the model's distribution.

    Order: penalties and bias on the logits, temperature, then top-k, top-p, min-p and typical-p,
    each on the tokens that the one before has kept. `temperature` 0 takes the most likely token.
    The random number depends on (`seed`, position) alone; `seed` has 64 bits.
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
    stop_context: Sequence[int] = ()  # the last tokens generated before, for stop strings
    forced_tokens: Sequence[int] = ()  # at most max_new_tokens
    return_state: bool = False  # whether chunks bring states
    constraint: Constraint | None = None
    # So many tokens, those of `stop_context` included, precede an end token and a stop string.
    min_new_tokens: int = 0
    sampled_in_prompt: int = 0  # how many of the prompt's last tokens were sampled earlier
    deadline_s: float | None = None  # Unix time at which it ends with the tokens it has
    stop_token_ids: tuple[int, ...] = ()  # each ends the text as a stop string does
    ignore_eos: bool = False  # whether a sampled end token ends nothing
    is_start: bool = False  # whether no text precedes, so that no joiner begins the first token
    owner: str = ""  # whose it is: owners share the engine equally, whatever their numbers
    is_whole: bool = False  # whether nobody reads before the end, so that its bursts may be long
    steer: Steering = ()  # only of an engine whose program can be steered
    timing: RequestTiming = field(default_factory=RequestTiming, compare=False, repr=False)


LEAST_REPETITION, MOST_REPETITION = 0.01, 100.0
"""Bounds of a repetition penalty: within them no logit of float32 becomes infinite."""


def scoring_request(
    prompt: Sequence[int],
    tokens: Sequence[int],
    initial_state: State | None,
    *,
    top_tokens: int = 0,
    deadline_s: float | None = None,
    owner: str = "",
    steer: Steering = (),
) -> GenerationRequest:
    """Return a request for the logprobs of `tokens` after a prompt, and for the state there."""
    return GenerationRequest(
        prompt,
        len(tokens),
        SamplingParams(seed=0, temperature=0.0),
        top_tokens=top_tokens,
        initial_state=initial_state,
        forced_tokens=tokens,
        return_state=True,
        deadline_s=deadline_s,
        ignore_eos=True,
        owner=owner,
        steer=steer,
    )


class FinishReason(StrEnum):
    """Why a generation ended."""

    EOS_TOKEN = "eos_token"  # noqa: S105 (TGI's word for a text that its constraint has closed)
    LENGTH = "length"
    STOP_SEQUENCE = "stop_sequence"


@dataclass(frozen=True, slots=True)
class Token:
    """A token and the natural logarithm of its probability, before any sampling parameter."""

    id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a generation. `generated_tokens` counts the tokens of a stop string too.

    `stop` is the stop string that ended it, and `stop_token` its last token; no chunk shows them.
    `partial` is the text in UTF-8 before the stop string, of the token in which this begins.
    """

    reason: FinishReason
    generated_tokens: int
    stop_token: Token | None = None
    stop: str | None = None
    partial: bytes = b""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The result of one burst: tokens in order, and the end if it was reached.

    Columns rather than rows, because a chunk is encoded once a burst on the hot path. `top_tokens`
    has one entry per token if the request has `top_tokens`, else it is empty. `sampled` is every
    token of the burst, those held back by a stop string or a deadline included. `state` is the
    latest that has consumed only the prompt and sampled tokens. During prefill a chunk may have a
    state alone.
    """

    tokens: Sequence[int]
    logprobs: Sequence[float]
    top_tokens: Sequence[Sequence[Token]] = field(default=())
    finish: Finish | None = None
    sampled: Sequence[int] = field(default=())
    state: State | None = None
