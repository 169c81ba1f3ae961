"""From TGI's `parameters` to the request that the engine gets."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from service.api.grammar import of_grammar
from service.api.sampling_fields import INPUT_ERROR, check_beam_search
from service.api.tgi.schemas import Parameters
from service.constraints.compiler import ConstraintCompiler
from service.constraints.constraint import Constraint
from service.errors import Validation
from service.generation.beams import BeamParams
from service.generation.request import GenerationRequest
from service.models.tokenizer import Tokenizer


def default_parameters(defaults: Mapping[str, Any]) -> Parameters:
    """Return the `generation_defaults` of a model, which apply to requests without parameters.

    Raises:
        Validation: they are not valid parameters.

    """
    try:
        return Parameters.model_validate(defaults)
    except ValidationError as error:
        raise Validation(
            "the model's own generation_defaults are not valid parameters; give `parameters`"
        ) from error


def check_combination(parameters: Parameters, *, is_stream: bool, is_turn: bool) -> None:
    """Check whether parameters go together. Raises Validation, with TGI's message if it has one."""
    for message in _conflicts(parameters, is_stream=is_stream):
        raise Validation(INPUT_ERROR + message)
    if is_turn:
        for message in _conflicts_with_turn(parameters):
            raise Validation(INPUT_ERROR + message)


def _conflicts(parameters: Parameters, *, is_stream: bool) -> Iterator[str]:
    has_best_of, is_beam_search = (parameters.best_of or 1) > 1, parameters.is_beam_search
    if has_best_of and not parameters.is_sampling:
        yield "you must use sampling when `best_of` is > 1"
    if has_best_of and parameters.seed is not None:
        yield "`seed` must not be set when `best_of` > 1"
    if has_best_of and is_stream:
        yield "`best_of` != 1 is not supported when streaming tokens"
    if parameters.decoder_input_details and is_stream:
        yield "`decoder_input_details` == true is not supported when streaming tokens"
    if has_best_of and is_beam_search:
        yield "`best_of` and `num_beams` select among texts in two ways; give one of them"
    if parameters.length_penalty not in {None, 1.0} and not is_beam_search:
        yield "`length_penalty` has an effect only with `num_beams` > 1"
    if parameters.do_sample and is_beam_search:
        yield "`do_sample` does not go with `num_beams`: a beam search samples nothing"
    if (parameters.min_new_tokens or 0) > parameters.n_new_tokens:
        given = f"{parameters.min_new_tokens} and {parameters.n_new_tokens}"
        yield f"`min_new_tokens` must be at most `max_new_tokens`. Given: {given}"


def _conflicts_with_turn(parameters: Parameters) -> Iterator[str]:
    reason = "does not go with a session: a turn adds one text to it, once"
    if (parameters.best_of or 1) > 1:
        yield f"`best_of` {reason}"
    if parameters.is_beam_search:
        yield f"`num_beams` {reason}"
    if parameters.decoder_input_details:
        yield "`decoder_input_details` does not go with a session; POST /score does"


def beams_of(parameters: Parameters) -> BeamParams | None:
    """Return the parameters of the beam search, if one is requested."""
    width = parameters.num_beams or 1
    return parameters.beam_params(width, 1) if parameters.is_beam_search else None


async def constraint_of(parameters: Parameters, compiler: ConstraintCompiler) -> Constraint | None:
    """Return the compiled constraint. Raises Validation."""
    grammar = None if parameters.grammar is None else (of_grammar(parameters.grammar), "grammar")
    return await parameters.compile_constraint(
        compiler,
        grammar,
        parameters.min_new_tokens,
        (parameters.n_new_tokens, "max_new_tokens"),
    )


def request_of(
    parameters: Parameters,
    prompt: Sequence[int],
    tokenizer: Tokenizer,
    default_seed: int,
    constraint: Constraint | None,
    deadline_s: float | None = None,
) -> GenerationRequest:
    """Return the request of a prompt; `default_seed` applies if the parameters have no seed.

    Raises:
        Validation: a token id is outside the vocabulary, or a beam search has sampling parameters.

    """
    sampling = parameters.sampling_params(
        len(tokenizer), default_seed, is_greedy=not parameters.is_sampling
    )
    if parameters.is_beam_search:
        check_beam_search(sampling, f"{INPUT_ERROR}`num_beams`")
    if parameters.truncate is not None:
        prompt = prompt[-parameters.truncate :]
    return GenerationRequest(
        prompt,
        parameters.n_new_tokens,
        sampling,
        tuple(parameters.stop or ()),
        min(parameters.top_n_tokens or 0, len(tokenizer)),
        constraint=constraint,
        min_new_tokens=parameters.min_new_tokens or 0,
        deadline_s=deadline_s,
    )
