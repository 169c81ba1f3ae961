"""Sampling parameters: the fields that every generate body has, and what the engine gets of them.

A new sampling parameter is one field here with its bounds and its description; the name is that of
the field of `SamplingParams`. The other places are `generation/request.py`,
`generation/sampling.py` and the client's parameters.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Annotated

from pydantic import Field, field_validator

from service.api.fields import (
    MAX_BEAMS,
    MAX_CHOICES,
    MAX_NEW_TOKENS,
    MAX_STOPS,
    Body,
    Number,
    TokenIds,
)
from service.api.steer_fields import SteerEntry
from service.constraints.compiler import ConstraintCompiler
from service.constraints.constraint import Constraint
from service.constraints.spec import ConstraintSpec, limited
from service.errors import Validation, about
from service.generation.beams import BeamParams
from service.generation.request import (
    LEAST_REPETITION,
    MAX_LOGIT_BIASES,
    MAX_TOP_TOKENS,
    MOST_REPETITION,
    SamplingParams,
)
from service.models.steering import MAX_STEERED_CELLS

INPUT_ERROR = "Input validation error: "
N_SEEDS = 2**64
MAX_BAD_WORDS = 256
MAX_WORD_CHARACTERS = 256  # of a bad word, and of a stop sequence
MAX_TIME_S = 24 * 3_600.0

# Messages of Text Generation Inference for values out of range; its clients show them to users.
RANGE_MESSAGES = {
    "temperature": "`temperature` must be strictly positive, or 0 for the most likely token",
    "top_p": "`top_p` must be > 0.0 and < 1.0",
    "typical_p": "`typical_p` must be > 0.0 and < 1.0",
    "min_p": "`min_p` must be >= 0.0 and < 1.0",
    "top_k": "`top_k` must be strictly positive",
    "repetition_penalty": "`repetition_penalty` must be strictly positive, from "
    f"{LEAST_REPETITION} to {MOST_REPETITION:g}",
    "frequency_penalty": "`frequency_penalty` must be >= -2.0 and <= 2.0",
    "presence_penalty": "`presence_penalty` must be >= -2.0 and <= 2.0",
    "max_new_tokens": f"`max_new_tokens` must be strictly positive, and <= {MAX_NEW_TOKENS}",
    "best_of": f"`best_of` must be > 0 and <= {MAX_CHOICES}",
    "num_beams": f"`num_beams` must be > 0 and <= {MAX_BEAMS}",
    "top_n_tokens": f"`top_n_tokens` must be >= 0 and <= {MAX_TOP_TOKENS}",
}

Bias = Annotated[Number, Field(ge=-100.0, le=100.0)]
TOP_K = "Keeps the k most likely tokens."
TOP_P = "Keeps the most likely tokens whose probabilities sum to at least this."
SEED = "Seed of the random numbers; if null, the session's seed or a new one."


class SamplingFields(Body):
    """Fields that TGI's `parameters` and the body of /v1/completions share.

    The bounds are vLLM's where those are wider than TGI's; TGI's `Parameters` narrows them.
    """

    temperature: Number | None = Field(
        None, ge=0.0, description="Divides the logits; 0 takes the most likely token."
    )
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1, description=TOP_K)
    top_p: Number | None = Field(None, gt=0.0, le=1.0, description=TOP_P)
    min_p: Number | None = Field(
        None,
        ge=0.0,
        lt=1.0,
        description="Keeps the tokens with at least this share of the highest probability.",
    )
    typical_p: Number | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="Keeps the tokens closest to the expected information (locally typical "
        "sampling) whose probabilities sum to at least this.",
    )
    repetition_penalty: Number | None = Field(
        None,
        ge=LEAST_REPETITION,
        le=MOST_REPETITION,
        description="Divides the positive and multiplies the negative logits of earlier tokens.",
    )
    frequency_penalty: Number | None = Field(
        None, ge=-2.0, le=2.0, description="Subtracted from a logit for each occurrence."
    )
    presence_penalty: Number | None = Field(
        None, ge=-2.0, le=2.0, description="Subtracted from a logit after an occurrence."
    )
    logit_bias: dict[str, Bias] | None = Field(
        None, max_length=MAX_LOGIT_BIASES, description="Added to logits, by token id."
    )
    seed: int | None = Field(None, ge=-(2**63), lt=N_SEEDS, description=SEED)
    allowed_token_ids: TokenIds | None = Field(
        None, description="The only token ids that may be generated."
    )
    bad_words: list[str] | None = Field(
        None, description="Strings that the generated text does not contain."
    )
    length_penalty: Number | None = Field(
        None,
        ge=-10.0,
        le=10.0,
        description="Exponent of the length by which a beam's logprob is divided.",
    )
    steer: Annotated[list[SteerEntry], Field(max_length=MAX_STEERED_CELLS)] | None = Field(
        None, description="Cells that are held or changed while the text is read or generated."
    )
    max_time: Number | None = Field(
        None,
        gt=0.0,
        le=MAX_TIME_S,
        description="Seconds from the request's arrival after which the generation ends.",
    )

    @field_validator("stop", check_fields=False)
    @classmethod
    def _check_stop(cls, value: str | list[str] | None) -> list[str]:
        stop = [value] if isinstance(value, str) else value or []
        if len(stop) > MAX_STOPS:
            raise ValueError(
                f"`stop` supports up to {MAX_STOPS} stop sequences. Given: {len(stop)}"
            )
        return _check_lengths("`stop` sequences", stop, MAX_WORD_CHARACTERS)

    @field_validator("bad_words")
    @classmethod
    def _check_bad_words(cls, value: list[str] | None) -> list[str]:
        words = value or []
        if len(words) > MAX_BAD_WORDS:
            raise ValueError(f"`bad_words` are {MAX_BAD_WORDS} at most. Given: {len(words)}")
        return _check_lengths("`bad_words`", words, MAX_WORD_CHARACTERS)

    @property
    def has_sampling_parameter(self) -> bool:
        """Whether a parameter is given that has no effect on greedy decoding."""
        return any(getattr(self, name) is not None for name in _SCALARS if name not in _PENALTIES)

    def deadline_s(self) -> float | None:
        """Return when a request that arrives now ends, as Unix time: all processes share it."""
        return None if self.max_time is None else time.time() + self.max_time

    def sampling_params(
        self, vocabulary_size: int, default_seed: int, *, is_greedy: bool = False
    ) -> SamplingParams:
        """Return how the engine samples; `is_greedy` replaces the temperature by 0.

        Raises Validation if a key of `logit_bias` is no token id.
        """
        given = vars(self)
        values = {name: given[name] for name in _SCALARS if given[name] is not None}
        values["top_k"] = max(0, self.top_k or 0)  # vLLM's -1 is "all"
        if is_greedy:
            values["temperature"] = 0.0
        return SamplingParams(
            seed=default_seed if self.seed is None else self.seed % N_SEEDS,
            logit_bias=_bias_pairs(self.logit_bias or {}, vocabulary_size),
            **values,
        )

    def beam_params(self, width: int, n: int) -> BeamParams:
        """Return how `width` beams search for the `n` most likely texts."""
        return BeamParams(width, n, 1.0 if self.length_penalty is None else self.length_penalty)

    async def compile_constraint(
        self,
        compiler: ConstraintCompiler,
        grammar: tuple[ConstraintSpec, str] | None,
        min_tokens: int | None,
        max_tokens: tuple[int, str],
    ) -> Constraint | None:
        """Compile what restricts the text: a grammar, bad words, allowed tokens, a least length.

        `grammar` and `max_tokens` come with the name of their field. Raises Validation if the
        constraint is not supported, or no text satisfies it.
        """
        if not (grammar or self.allowed_token_ids or self.bad_words or min_tokens):
            return None
        ids = check_token_ids(
            self.allowed_token_ids or (), compiler.vocabulary_size, "allowed_token_ids"
        )
        spec, field = grammar or (None, "bad_words" if self.bad_words else "allowed_token_ids")
        spec = limited(spec, bad_words=self.bad_words or (), allowed=ids, least=min_tokens or 0)
        if spec is None:
            return None
        with about(field):
            constraint = await compiler.compiled(spec)
        limit, field = max_tokens
        with about(field):
            constraint.check_fits(limit)
        return constraint


_PENALTIES = {"repetition_penalty", "frequency_penalty", "presence_penalty"}
_SCALARS = [one.name for one in fields(SamplingParams) if one.name not in {"seed", "logit_bias"}]


def check_beam_search(sampling: SamplingParams, search: str) -> None:
    """Raise Validation if a parameter has an effect, because a beam search samples nothing.

    A temperature of 1 or of 0 and a penalty of 0 have none. `search` is the field that starts it.
    """
    is_neutral = sampling.temperature in {0.0, 1.0}
    neutral = asdict(SamplingParams(sampling.seed, sampling.temperature if is_neutral else 1.0))
    given = [name for name, value in asdict(sampling).items() if value != neutral[name]]
    if given:
        names = " and ".join(f"`{name}`" for name in given)
        raise Validation(f"{search} samples nothing and does not go with {names}", given[0])


def check_token_ids(ids: Iterable[int], vocabulary_size: int, field: str) -> tuple[int, ...]:
    """Return the ids. Raises Validation if one is outside the vocabulary."""
    ids = tuple(ids)
    if ids and not 0 <= min(ids) <= max(ids) < vocabulary_size:
        wrong = next(i for i in ids if not 0 <= i < vocabulary_size)
        raise Validation(
            f"`{field}` has the token {wrong}; the model's ids go from 0 to {vocabulary_size - 1}",
            field,
        )
    return ids


def _bias_pairs(biases: Mapping[str, float], vocabulary_size: int) -> tuple[tuple[int, float], ...]:
    pairs = []
    for key, bias in biases.items():
        is_id = key.isascii() and key.isdigit() and len(key) < 9
        if not (is_id and int(key) < vocabulary_size):
            raise Validation(
                f"{INPUT_ERROR}`logit_bias` names the token {key[:40]!r}; "
                f"the model's ids go from 0 to {vocabulary_size - 1}",
                "logit_bias",
            )
        if bias:
            pairs.append((int(key), bias))
    return tuple(pairs)


def _check_lengths(what: str, texts: list[str], limit: int) -> list[str]:
    for text in texts:
        if not 1 <= len(text) <= limit:
            raise ValueError(f"{what} have 1 to {limit} characters. Given: {len(text)}")
    return texts
