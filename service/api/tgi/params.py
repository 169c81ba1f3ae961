"""From TGI's `parameters` to what the generation room is asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from service.api.bodies import DEFAULT_NEW_TOKENS, Parameters
from service.api.grammar import of_grammar
from service.api.limits import check_draws_nothing, constraint_within
from service.api.token_ids import logit_bias
from service.constraints.compiler import ConstraintCompiler
from service.constraints.constraint import Constraint
from service.errors import Validation, about
from service.generation.beams import BeamParams
from service.generation.request import GenerationRequest, SamplingParams
from service.models.tokenizer import Tokenizer

INPUT = "Input validation error: "


def defaults_of(defaults: Mapping[str, Any]) -> Parameters:
    """The parameters that a model's card gives for requests without any. Raises Validation."""
    try:
        return Parameters.model_validate(defaults)
    except ValidationError as error:
        raise Validation(
            "the model's own generation_defaults are not valid parameters; give `parameters`"
        ) from error


def check_together(parameters: Parameters, *, is_stream: bool, is_turn: bool) -> None:
    """See whether parameters go together, in TGI's words where it has some. Raises Validation."""
    best_of, beams = parameters.best_of or 1, parameters.num_beams or 1
    limit = parameters.max_new_tokens or DEFAULT_NEW_TOKENS
    lengths = f"{parameters.min_new_tokens} and {limit}"
    clashes = [
        (best_of > 1 and not parameters.is_sampling, "you must use sampling when `best_of` is > 1"),
        (
            best_of > 1 and parameters.seed is not None,
            "`seed` must not be set when `best_of` > 1",
        ),
        (best_of > 1 and is_stream, "`best_of` != 1 is not supported when streaming tokens"),
        (
            bool(parameters.decoder_input_details) and is_stream,
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
        (
            best_of > 1 and beams > 1,
            "`best_of` and `num_beams` choose among texts in two ways; give one of them",
        ),
        (
            parameters.length_penalty not in {None, 1.0} and beams == 1,
            "`length_penalty` is of `num_beams` > 1",
        ),
        (
            bool(parameters.do_sample) and beams > 1,
            "`do_sample` does not go with `num_beams`: it draws nothing",
        ),
        (
            (parameters.min_new_tokens or 0) > limit,
            f"`min_new_tokens` must be at most `max_new_tokens`. Given: {lengths}",
        ),
    ]
    if is_turn:
        only = "does not go with a session: a turn adds one text to it, once"
        details = bool(parameters.decoder_input_details)
        clashes += [
            (best_of > 1, f"`best_of` {only}"),
            (beams > 1, f"`num_beams` {only}"),
            (details, "`decoder_input_details` does not go with a session; POST /score does"),
        ]
    for is_wrong, sentence in clashes:
        if is_wrong:
            raise Validation(INPUT + sentence)


async def constraint_of(parameters: Parameters, compiler: ConstraintCompiler) -> Constraint | None:
    """What the text must look like, compiled. Raises Validation."""
    grammar = None if parameters.grammar is None else (of_grammar(parameters.grammar), "grammar")
    constraint = await constraint_within(
        compiler,
        grammar,
        bad_words=parameters.bad_words,
        allowed=parameters.allowed_token_ids,
        least=parameters.min_new_tokens,
    )
    if constraint is not None:
        with about("max_new_tokens"):
            constraint.check_fits(parameters.max_new_tokens or DEFAULT_NEW_TOKENS)
    return constraint


def beams_of(parameters: Parameters) -> BeamParams | None:
    """How the likeliest text is looked for, where that is asked for."""
    width, penalty = parameters.num_beams or 1, parameters.length_penalty
    return BeamParams(width, 1, 1.0 if penalty is None else penalty) if width > 1 else None


def request_of(
    parameters: Parameters,
    prompt: Sequence[int],
    tokenizer: Tokenizer,
    seed: int,
    constraint: Constraint | None,
    deadline_s: float | None = None,
) -> GenerationRequest:
    """The request that parameters are for a prompt; `seed` is taken where they have none.

    Raises:
        Validation: they name a token that there is none, or a search is to draw.

    """
    if parameters.truncate is not None:
        prompt = prompt[-parameters.truncate :]
    chosen = parameters.temperature if parameters.temperature is not None else 1.0
    sampling = SamplingParams(
        seed=seed if parameters.seed is None else parameters.seed,
        temperature=chosen if parameters.is_sampling else 0.0,
        top_k=parameters.top_k or 0,
        top_p=parameters.top_p or 1.0,
        min_p=parameters.min_p or 0.0,
        typical_p=parameters.typical_p or 1.0,
        repetition_penalty=parameters.repetition_penalty or 1.0,
        frequency_penalty=parameters.frequency_penalty or 0.0,
        presence_penalty=parameters.presence_penalty or 0.0,
        logit_bias=logit_bias(parameters.logit_bias or {}, len(tokenizer)),
    )
    if beams_of(parameters) is not None:
        check_draws_nothing(sampling, f"{INPUT}`num_beams`")
    return GenerationRequest(
        prompt,
        parameters.max_new_tokens or DEFAULT_NEW_TOKENS,
        sampling,
        tuple(parameters.stop or ()),
        min(parameters.top_n_tokens or 0, len(tokenizer)),
        constraint=constraint,
        min_new_tokens=parameters.min_new_tokens or 0,
        deadline_s=deadline_s,
    )
