"""From a body of /v1/completions to the request that the engine gets."""

from collections.abc import Iterator, Sequence
from typing import Any

from service.api.fields import MAX_BEAMS
from service.api.grammar import of_response_format, of_structured_outputs
from service.api.openai.schemas import CompletionBody, Prompt
from service.api.sampling_fields import check_beam_search, check_token_ids
from service.constraints.compiler import ConstraintCompiler
from service.constraints.constraint import Constraint
from service.constraints.spec import ConstraintSpec
from service.errors import Validation
from service.generation.beams import BeamParams
from service.generation.request import GenerationRequest
from service.models.tokenizer import Tokenizer


def check_combination(body: CompletionBody, *, is_turn: bool) -> None:
    """Check whether a body's fields go together. Raises Validation with the field."""
    for field, message in _conflicts(body):
        raise Validation(message, field)
    if not is_turn and body.expected_position is not None:
        message = "`expected_position` is of a session; give `session_id`"
        raise Validation(message, "expected_position")
    if is_turn:
        for field in _conflicts_with_turn(body):
            message = f"`{field}` does not go with a session: a turn adds one text to it, once"
            raise Validation(message, field)


def _conflicts(body: CompletionBody) -> Iterator[tuple[str, str]]:
    """Yield the field and the message of each conflict."""
    if body.stream_options is not None and not body.stream:
        yield "stream_options", "`stream_options` has an effect only with `stream`"
    if body.stream and body.prompt_logprobs is not None:
        yield "prompt_logprobs", "`prompt_logprobs` cannot be streamed; use `echo`"
    if (body.min_tokens or 0) > body.n_new_tokens:
        given = f"{body.min_tokens} and {body.n_new_tokens}"
        yield "min_tokens", f"`min_tokens` must be at most `max_tokens`. Given: {given}"
    if body.include_stop_str_in_output and body.logprobs is not None:
        message = "does not go with `logprobs`, which has those of the text before it"
        yield "include_stop_str_in_output", f"`include_stop_str_in_output` {message}"
    yield from _conflicts_of_choices(body)


def _conflicts_of_choices(body: CompletionBody) -> Iterator[tuple[str, str]]:
    n, best_of = body.n or 1, body.best_of or body.n or 1
    if best_of < n:
        yield "best_of", f"`best_of` must be at least `n`. Given: {best_of} and {n}"
    if not body.use_beam_search:
        if body.stream and best_of > n:
            yield "best_of", "`best_of` > `n` is decided at the end and cannot be streamed"
        if body.length_penalty not in {None, 1.0}:
            yield "length_penalty", "`length_penalty` has an effect only with `use_beam_search`"
        return
    if best_of > MAX_BEAMS:
        yield "n", f"`use_beam_search` has at most {MAX_BEAMS} beams. Given: {best_of}"
    if body.n_new_tokens == 0:
        yield "max_tokens", "`use_beam_search` needs a `max_tokens` of at least 1. Given: 0"


def _conflicts_with_turn(body: CompletionBody) -> list[str]:
    """Return the fields that a turn of a session cannot have."""
    given = {
        "prompt": isinstance(body.prompt, list) and len(body.prompt) > 1,
        "n": (body.n or 1) > 1,
        "best_of": (body.best_of or 1) > 1,
        "use_beam_search": bool(body.use_beam_search),
        "prompt_logprobs": body.prompt_logprobs is not None,
        "echo": bool(body.echo) and body.logprobs is not None,
        "max_tokens": body.max_tokens == 0,
        "include_stop_str_in_output": bool(body.include_stop_str_in_output),
    }
    return [field for field, is_given in given.items() if is_given]


def beams_of(body: CompletionBody) -> BeamParams | None:
    """Return the parameters of the beam search, if one is requested."""
    n = body.n or 1
    return body.beam_params(body.best_of or n, n) if body.use_beam_search else None


def prompt_logprobs_of(body: CompletionBody) -> int | None:
    """Return how many of the most likely tokens each prompt token needs; None: no logprobs."""
    echoed = body.logprobs if body.echo else None
    given = [n for n in (body.prompt_logprobs, echoed) if n is not None]
    return max(given, default=None)


async def constraint_of(body: CompletionBody, compiler: ConstraintCompiler) -> Constraint | None:
    """Return the compiled constraint. Raises Validation."""
    return await body.compile_constraint(
        compiler, _grammar_of(body), body.min_tokens, (body.n_new_tokens, "max_tokens")
    )


def _grammar_of(body: CompletionBody) -> tuple[ConstraintSpec, str] | None:
    """Return the grammar and its field. Raises Validation if several fields have one."""
    guided: dict[str, Any] = {
        "json": body.guided_json,
        "regex": body.guided_regex,
        "choice": body.guided_choice,
    }
    specs = {
        "response_format": body.response_format and of_response_format(body.response_format),
        "structured_outputs": body.structured_outputs
        and of_structured_outputs(body.structured_outputs),
    } | {
        f"guided_{kind}": of_structured_outputs({kind: value}, f"guided_{kind}")
        for kind, value in guided.items()
        if value is not None
    }
    found = [(spec, field) for field, spec in specs.items() if spec]
    if len(found) > 1:
        raise Validation(
            f"`{found[1][1]}` and `{found[0][1]}` both restrict the text; give one of them",
            found[1][1],
        )
    return found[0] if found else None


def tokens_of(prompt: Prompt, tokenizer: Tokenizer) -> Sequence[int]:
    """Return the tokens of a prompt. Raises UnknownCharacter, Validation."""
    if isinstance(prompt, str):
        return tokenizer.encode(prompt)
    return check_token_ids(prompt, len(tokenizer), "prompt")


def request_of(
    body: CompletionBody,
    prompt: Sequence[int],
    tokenizer: Tokenizer,
    default_seed: int,
    constraint: Constraint | None,
    deadline_s: float | None = None,
) -> GenerationRequest:
    """Return the request of one prompt; `default_seed` applies if the body has no seed.

    Raises:
        Validation: a token id is outside the vocabulary, or a beam search has sampling parameters.

    """
    vocabulary_size, truncate = len(tokenizer), body.truncate_prompt_tokens
    sampling = body.sampling_params(vocabulary_size, default_seed)
    if body.use_beam_search:
        check_beam_search(sampling, "`use_beam_search`")
    ends = check_token_ids(body.stop_token_ids or (), vocabulary_size, "stop_token_ids")
    stops = (*(body.stop or ()), *filter(None, map(tokenizer.text_of, ends)))
    return GenerationRequest(
        prompt[-truncate:] if truncate is not None and truncate > 0 else prompt,
        body.n_new_tokens,
        sampling,
        tuple(dict.fromkeys(stops)),
        min(body.logprobs or 0, vocabulary_size),
        constraint=constraint,
        min_new_tokens=body.min_tokens or 0,
        deadline_s=deadline_s,
    )
