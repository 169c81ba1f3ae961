"""The routes under /v1: completions, in a session or without one, and models."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.admitted_request import AdmittedRequest, steer_of
from service.api.fields import MAX_BEAMS
from service.api.grammar import of_response_format, of_structured_outputs
from service.api.http_request import drawn_seeds, header, session_id_of
from service.api.model_description import described_if_stored
from service.api.openai.responses import events, whole
from service.api.openai.schemas import (
    COMPLETED,
    CompletionBody,
    ModelReply,
    ModelsReply,
    ModelWithVocabularyReply,
)
from service.api.sampling_fields import check_beam_search, check_token_ids
from service.api.serving_engine import ServingEngine, steered_turn
from service.api.state import AppState, ServedModel, get_state, session_model
from service.constraints.spec import ConstraintSpec
from service.errors import Validation, about
from service.generation.completions import start
from service.generation.request import GenerationRequest
from service.models.loaded_model import ModelInfo
from service.models.registry import DEFAULT_ALIAS
from service.sessions.idempotency import idempotency_key
from service.sessions.running_turn import RunningTurn
from service.sessions.session import OnDisconnect, Session
from service.sessions.turn_prompt import TurnPrompt
from service.sessions.turns import TurnRequest

router = APIRouter(prefix="/v1", tags=["openai"])


@router.post("/completions", response_class=Response, responses=COMPLETED)
async def create(http: Request, body: CompletionBody) -> Response:
    """Complete one prompt or several; with `stream` as server-sent events."""
    admitted = await admit(http, body, "completion", lambda: body.fingerprint)
    if body.stream:
        return admitted.stream(http, events(admitted, body), {})
    return await whole(http, admitted, body)


async def admit(
    http: Request, body: CompletionBody, kind: str, fingerprint: Callable[[], str]
) -> AdmittedRequest:
    """Check the whole request and start it, in a session or without one.

    `kind` and `fingerprint` are those of the request as it was sent: a retry has the same.
    """
    session_id = session_id_of(http, body.session_id)
    _check_combination(body, is_turn=session_id is not None)
    if session_id is None:
        return await _admit(http, body)
    return await _admit_turn(http, body, session_id, kind, fingerprint)


async def _admit(http: Request, body: CompletionBody) -> AdmittedRequest:
    """Check the whole request and start it: every error is raised before the first byte."""
    state = get_state(http)
    with about("model"):
        model = await state.get(http, body.model)
    with about("prompt"):
        prompts = [
            TurnPrompt.of(model.tokenizer, _checked(model, one), 0, has_text=False)
            for one in body.prompt
        ]
    owner, seeds = state.owner_of(http), drawn_seeds(http, state.seeds, len(prompts))
    requests = await _requests(model, body, prompts, seeds, owner)
    if not all(request.prompt for request in requests):
        raise Validation("`prompt` has no token that the model knows", "prompt")
    n, n_sampled = body.n or 1, len(requests) * (body.best_of or body.n or 1)
    limit = model.runtime.engine.config.queue_limit
    if n_sampled > limit:  # more would never be admitted
        raise Validation(
            f"the request needs {n_sampled} texts for all its prompts; the limit is {limit}", "n"
        )
    salt = () if body.cache_salt is None else (body.cache_salt,)
    n_prompt = sum(len(request.prompt) for request in requests)
    serving = await ServingEngine.of(http, model, body.steer, requests)
    meter = await state.metering.reserve(http, n_prompt + n_sampled * body.n_new_tokens)
    completions = start(
        serving.engine,
        serving.requests,
        n=n,
        best_of=body.best_of or n,
        beams=body.beam_params(body.best_of or n, n) if body.use_beam_search else None,
        prompt_logprobs=_prompt_logprobs(body),
        prefix_cache=serving.prefixes and serving.prefixes.scoped(owner, *salt),
    )
    meter.begin(n_prompt, completions=completions)
    return AdmittedRequest(
        model=model,
        requests=serving.requests,
        completions=completions,
        n=n,
        steer=serving.reply,
        prompt_texts=_typed_prompts(model, body),
    )


async def _admit_turn(
    http: Request, body: CompletionBody, session_id: str, kind: str, fingerprint: Callable[[], str]
) -> AdmittedRequest:
    """Start a turn of a session, or return the one that began with the same idempotency key."""
    state, key = get_state(http), header(http, b"idempotency-key")
    if key is None and body.expected_position is None:
        http.state.is_unkeyed_turn = True  # the error handlers tell clients not to repeat it

    async def admit(session: Session) -> AdmittedRequest:
        model = await state.get_for(http, session, body.model)
        served, records = session_model(model), state.sessions.records
        with about("prompt"):
            text = _checked(model, body.prompt[0])
            prompt = await records.turn_prompt(session, served, text)
        request = (await _requests(model, body, [prompt], [session.seed], session.key.owner))[0]
        if session.position == 0 and not request.prompt:
            reason = "has no token that the model knows" if text else "cannot be empty"
            raise Validation(f"`prompt` {reason} in a session that has no text yet", "prompt")
        request, steer = await steered_turn(http, model, body.steer, request, session.position)
        turn_request = TurnRequest(
            request,
            OnDisconnect(body.on_disconnect),
            steer,
            idempotency_key(key, kind, fingerprint),
            body.expected_position,
            is_streamed=bool(body.stream),
            made_for=prompt.made_for,
        )
        meter = await state.metering.reserve(http, len(request.prompt) + request.max_new_tokens)
        begun = await state.sessions.turns.begin(session, served, turn_request)
        if isinstance(begun, RunningTurn):
            meter.begin(len(request.prompt), begun)
        else:
            steer = steer_of(begun.record)
        texts = _typed_prompts(model, body)
        return AdmittedRequest.of_turn(
            model, session_id, request, begun, prompt_texts=texts, steer=steer
        )

    return await state.sessions.records.with_session(state.key(http, session_id), admit)


def _check_combination(body: CompletionBody, *, is_turn: bool) -> None:
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
    if body.steer:
        yield "steer", "`steer` does not go with `use_beam_search`, whose beams are not steered"
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


async def _requests(
    model: ServedModel,
    body: CompletionBody,
    prompts: Sequence[TurnPrompt],
    default_seeds: Sequence[int],
    owner: str,
) -> list[GenerationRequest]:
    """Return the request of each prompt; the seeds apply if the body has none.

    Raises Validation where a field does not fit the model.
    """
    deadline_s = body.deadline_s()  # one for all prompts
    vocabulary_size, truncate = len(model.tokenizer), body.truncate_prompt_tokens
    constraint = await body.compile_constraint(
        model.runtime.constraints,
        _grammar_of(body),
        body.min_tokens,
        (body.n_new_tokens, "max_tokens"),
    )
    requests = []
    for prompt, seed in zip(prompts, default_seeds, strict=True):
        tokens = prompt.tokens
        sampling = body.sampling_params(vocabulary_size, seed)
        if body.use_beam_search:
            check_beam_search(sampling, "`use_beam_search`")
        ends = check_token_ids(body.stop_token_ids or (), vocabulary_size, "stop_token_ids")
        requests.append(
            GenerationRequest(
                tokens[-truncate:] if truncate is not None and truncate > 0 else tokens,
                body.n_new_tokens,
                sampling,
                tuple(dict.fromkeys(body.stop or ())),
                min(body.logprobs or 0, vocabulary_size),
                constraint=constraint,
                min_new_tokens=body.min_tokens or 0,
                deadline_s=deadline_s,
                stop_token_ids=tuple(dict.fromkeys(ends)),
                ignore_eos=bool(body.ignore_eos),
                is_start=prompt.is_start,
                owner=owner,
                is_whole=not body.stream and body.session_id is None,
            )
        )
    return requests


def _checked(model: ServedModel, prompt: str | Sequence[int]) -> str | Sequence[int]:
    """Return a prompt. Raises Validation if it has an id outside the vocabulary."""
    if isinstance(prompt, str):
        return prompt
    return check_token_ids(prompt, len(model.tokenizer), "prompt")


def _typed_prompts(model: ServedModel, body: CompletionBody) -> list[str | None]:
    """Return each prompt as it was typed; None where its ids say more: given as ids, or cut.

    The prompt's logprobs have one text for each token, which for characters make up the prompt.
    """
    is_cut = body.truncate_prompt_tokens is not None or not model.tokenizer.options
    return [None if is_cut or not isinstance(one, str) else one for one in body.prompt]


def _prompt_logprobs(body: CompletionBody) -> int | None:
    """Return how many of the most likely tokens each prompt token needs; None: no logprobs."""
    echoed = body.logprobs if body.echo else None
    return max((n for n in (body.prompt_logprobs, echoed) if n is not None), default=None)


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


# -- models


@router.get("/models")
async def every(request: Request) -> ModelsReply:
    """List the models that a request can name, and their aliases."""
    state = get_state(request)
    return ModelsReply(
        data=[ModelReply(**_model_row(state, name, info)) for name, info in _models_by_name(state)]
    )


@router.get("/models/{name}")
async def one(request: Request, name: str) -> ModelWithVocabularyReply:
    """Return a model with its vocabulary."""
    state = get_state(request)
    with about("model"):
        model = await state.get(request, name)
    row = _model_row(state, name, state.registry.info(model.ref))
    return ModelWithVocabularyReply(**row, vocabulary=list(model.tokenizer.tokens))


def _models_by_name(state: AppState) -> Iterator[tuple[str, ModelInfo]]:
    aliases = state.registry.aliases
    served = {info.ref: info for info in state.servable() if info.manifest is not None}
    default = aliases.get(DEFAULT_ALIAS)
    for ref in sorted(served, key=lambda ref: (ref != default, ref)):
        yield str(ref), served[ref]
    for alias, ref in sorted(aliases.items()):
        if ref in served:
            yield alias, served[ref]


def _model_row(state: AppState, name: str, info: ModelInfo) -> dict[str, Any]:
    manifest = info.manifest
    assert manifest is not None
    loaded = next((model for model in state.registry.loaded() if model.ref == info.ref), None)
    return {
        "id": name,
        "created": int(datetime.fromisoformat(manifest.created_at).timestamp()),
        "root": str(info.ref),
        "digest": manifest.digest,
        **described_if_stored(manifest, loaded),
    }
