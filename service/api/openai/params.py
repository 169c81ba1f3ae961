"""From a body of /v1/completions to what the generation room is asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.api.bodies import MAX_BEAMS
from service.api.grammar import of_response_format, of_structured_outputs
from service.api.limits import check_draws_nothing
from service.api.openai.bodies import DEFAULT_MAX_TOKENS, CompletionBody
from service.api.token_ids import logit_bias, token_ids
from service.constraints.constraint import Constraint
from service.constraints.spec import ConstraintSpec
from service.errors import Validation
from service.generation.beams import BeamParams
from service.generation.request import GenerationRequest, SamplingParams
from service.models.tokenizer import Tokenizer

_SEEDS = 2**64


@dataclass(frozen=True, slots=True)
class Clash:
    """Two things that do not go together: which field, and why."""

    field: str
    why: str


def check_together(body: CompletionBody, *, is_turn: bool) -> None:
    """See whether a body's fields go together. Raises Validation."""
    for clash in _clashes(body):
        raise Validation(clash.why, clash.field)
    if not is_turn:
        if body.expected_position is not None:
            raise Validation(
                "`expected_position` is of a session; give `session_id`", "expected_position"
            )
        return
    for field, is_asked in _not_in_turns(body).items():
        if is_asked:
            raise Validation(f"`{field}` does not go with a session: {_ONE}", field)


_ONE = "a turn adds one text to it, once"


def _clashes(body: CompletionBody) -> Iterator[Clash]:
    if body.stream_options is not None and not body.stream:
        yield Clash("stream_options", "`stream_options` is only of a `stream`")
    if body.stream and body.prompt_logprobs is not None:
        yield Clash("prompt_logprobs", "`prompt_logprobs` cannot be streamed; use `echo`")
    if (body.min_tokens or 0) > max_tokens_of(body):
        given = f"{body.min_tokens} and {max_tokens_of(body)}"
        yield Clash("min_tokens", f"`min_tokens` must be at most `max_tokens`. Given: {given}")
    if body.include_stop_str_in_output and body.logprobs is not None:
        yield Clash(
            "include_stop_str_in_output",
            "`include_stop_str_in_output` does not go with `logprobs`, which has those of the text "
            "before it",
        )
    yield from _clashes_of_choices(body)


def _clashes_of_choices(body: CompletionBody) -> Iterator[Clash]:
    n, best_of = body.n or 1, body.best_of or body.n or 1
    if best_of < n:
        yield Clash("best_of", f"`best_of` must be at least `n`. Given: {best_of} and {n}")
    if not body.use_beam_search:
        if body.stream and best_of > n:
            yield Clash("best_of", "`best_of` > `n` is decided at the end and cannot be streamed")
        if body.length_penalty not in {None, 1.0}:
            yield Clash("length_penalty", "`length_penalty` is of `use_beam_search`")
        return
    if best_of > MAX_BEAMS:
        yield Clash("n", f"`use_beam_search` has at most {MAX_BEAMS} beams. Given: {best_of}")
    if max_tokens_of(body) == 0:
        yield Clash("max_tokens", "`use_beam_search` needs a `max_tokens` of at least 1. Given: 0")


def _not_in_turns(body: CompletionBody) -> dict[str, bool]:
    return {
        "prompt": isinstance(body.prompt, list) and len(body.prompt) > 1,
        "n": (body.n or 1) > 1,
        "best_of": (body.best_of or 1) > 1,
        "use_beam_search": bool(body.use_beam_search),
        "prompt_logprobs": body.prompt_logprobs is not None,
        "echo": bool(body.echo) and body.logprobs is not None,
        "max_tokens": body.max_tokens == 0,
        "include_stop_str_in_output": bool(body.include_stop_str_in_output),
    }


def source_of(body: CompletionBody) -> tuple[ConstraintSpec, str] | None:
    """What the text must look like, and the field that says so. Raises Validation."""
    guided = {
        "json": body.guided_json,
        "regex": body.guided_regex,
        "choice": body.guided_choice,
    }
    asked = {
        "response_format": body.response_format and of_response_format(body.response_format),
        "structured_outputs": body.structured_outputs
        and of_structured_outputs(body.structured_outputs),
    }
    asked |= {
        f"guided_{name}": of_structured_outputs({name: value}, f"guided_{name}")
        for name, value in guided.items()
        if value is not None
    }
    found = [(source, field) for field, source in asked.items() if source]
    if len(found) > 1:
        raise Validation(
            f"`{found[1][1]}` and `{found[0][1]}` both say what the text must look like; give one",
            found[1][1],
        )
    return found[0] if found else None


def max_tokens_of(body: CompletionBody) -> int:
    """The limit of new tokens; OpenAI's default is short."""
    return DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens


def beams_of(body: CompletionBody) -> BeamParams | None:
    """How the likeliest texts are looked for, where that is asked for."""
    n, penalty = body.n or 1, body.length_penalty
    if not body.use_beam_search:
        return None
    return BeamParams(body.best_of or n, n, 1.0 if penalty is None else penalty)


def prompt_logprobs_of(body: CompletionBody) -> int | None:
    """How many likely tokens are told beside each of the prompt's; None: nothing is."""
    echoed = body.logprobs if body.echo else None
    asked = [n for n in (body.prompt_logprobs, echoed) if n is not None]
    return max(asked, default=None)


def request_of(
    body: CompletionBody,
    prompt: Sequence[int],
    tokenizer: Tokenizer,
    seed: int,
    constraint: Constraint | None,
    deadline_s: float | None = None,
) -> GenerationRequest:
    """The request that a body is for one of its prompts; `seed` is taken where it has none.

    Raises:
        Validation: it names a token that there is none, or a search is to draw.

    """
    vocabulary, keep = len(tokenizer), body.truncate_prompt_tokens
    sampling = SamplingParams(
        seed=seed if body.seed is None else body.seed % _SEEDS,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=max(0, body.top_k or 0),
        top_p=body.top_p or 1.0,
        min_p=body.min_p or 0.0,
        typical_p=body.typical_p or 1.0,
        repetition_penalty=body.repetition_penalty or 1.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        logit_bias=logit_bias(body.logit_bias or {}, vocabulary),
    )
    if body.use_beam_search:
        check_draws_nothing(sampling, "`use_beam_search`")
    ends = token_ids(body.stop_token_ids or (), vocabulary, "stop_token_ids")
    stops = (*(body.stop or ()), *filter(None, map(tokenizer.text_of, ends)))
    return GenerationRequest(
        prompt[-keep:] if keep is not None and keep > 0 else prompt,
        max_tokens_of(body),
        sampling,
        tuple(dict.fromkeys(stops)),
        min(body.logprobs or 0, vocabulary),
        constraint=constraint,
        min_new_tokens=body.min_tokens or 0,
        deadline_s=deadline_s,
    )
