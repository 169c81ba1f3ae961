"""Replies of the generate routes: from chunks to one JSON object or to a stream of events."""

import json
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import Request, Response

from service.api.admitted_request import AdmittedRequest, ChoiceState, steer_of
from service.api.choice_decoder import ChoiceDecoder
from service.api.errors import error_event
from service.api.exchange import RawHeaders
from service.api.sse import rounded
from service.api.state import ServedModel
from service.errors import CarouselError
from service.generation.completions import mean_logprob, seed_of
from service.generation.request import Chunk, Finish, Token
from service.models.tokenizers.tokenizer import Tokenizer
from service.sessions.replay import Replay
from service.sessions.session import SessionKey


def replayed(
    model: ServedModel, key: SessionKey, replay: Replay, arrived_s: float
) -> AdmittedRequest:
    """Return the generation of a recorded turn, from the event at which the replay begins."""
    record = replay.record
    return AdmittedRequest.of_turn(
        model,
        key.id,
        record.request(()),
        replay,
        arrived_s=arrived_s,
        echoed_prompt=replay.prompt or record.reply.get("prefix", ""),
        steer=steer_of(record),
        has_details=record.reply.get("details", False),
        sent_tokens=replay.generated,
    )


# -- a stream


def streamed(http: Request, admitted: AdmittedRequest) -> Response:
    """Return one event for each token; if an error occurs it is the last event."""
    headers = {"x-compute-type": "cpu", "x-compute-characters": str(admitted.prompt_characters)}
    return admitted.stream(http, _events(admitted), headers)


async def _events(admitted: AdmittedRequest) -> AsyncGenerator[bytes, None]:
    """Yield the events of a burst as one piece of bytes."""
    encoder, ids = admitted.model.runtime.encoder, admitted.ids
    tokens, decoder = list(admitted.sent_tokens), admitted.decoder()
    (choice,) = admitted.choices()
    if decoder is not None:
        decoder.texts(tokens)
    try:
        async for _, chunk in admitted.completions:
            choice.update_counts(chunk)
            admitted.stats.count(chunk)
            index = 1 + len(tokens)
            tokens.extend(chunk.tokens)
            if chunk.finish is not None:
                yield _last_events(admitted, index, chunk, chunk.finish, tokens, decoder)
            elif chunk.tokens:  # else a stop string holds them back
                yield encoder.events(index, chunk, ids, decoder)
    except CarouselError as error:
        admitted.stats.failed(error)
        more = {"resume": f"{ids.prefix}{ids.first + len(tokens)}"} if ids else {}
        yield error_event(error, **more)


def _last_events(
    admitted: AdmittedRequest,
    index: int,
    chunk: Chunk,
    finish: Finish,
    tokens: Sequence[int],
    decoder: ChoiceDecoder | None,
) -> bytes:
    """Encode the last chunk; `index` is that of its first token, `tokens` are all of the text."""
    encoder, ids = admitted.model.runtime.encoder, admitted.ids
    text = admitted.echoed_prompt + admitted.completion_text(tokens, finish)
    details = _finish_details(admitted, finish) | {"input_length": admitted.prompt_tokens}
    last, top, plain = finish.stop_token, chunk.top_tokens[-1:], chunk
    is_hidden = last is not None or not chunk.tokens
    if not chunk.tokens:
        last = last or Token(0, 0.0)  # a generation without one more token: its text is empty
    elif last is None:
        last = Token(chunk.tokens[-1], chunk.logprobs[-1])
        plain = Chunk(chunk.tokens[:-1], chunk.logprobs[:-1], chunk.top_tokens[:-1])
    before = encoder.events(index, plain, ids, decoder)
    text_of_last: str | None = finish.partial.decode("utf-8", "replace")
    if decoder is not None:
        shown = "" if is_hidden else "".join(decoder.texts((last.id,)))
        text_of_last = shown + decoder.end(finish)
    elif not is_hidden:
        text_of_last = None
    end = encoder.last_event(
        finish.generated_tokens if ids else index + len(plain.tokens),
        last,
        top[0] if top else (),
        {"generated_text": text, "details": details} | admitted.session(finish),
        is_hidden=is_hidden,
        ids=ids,
        text=text_of_last,
    )
    return before + end


def _finish_details(admitted: AdmittedRequest, finish: Finish) -> dict[str, Any]:
    return {
        "finish_reason": finish.reason,
        "generated_tokens": finish.generated_tokens,
        "seed": admitted.requests[0].sampling.seed,
        **admitted.steer,
    }


# -- a whole reply


async def whole(http: Request, admitted: AdmittedRequest, *, in_list: bool = False) -> Response:
    """Return the best text with its details, once all texts have ended."""
    choices = await admitted.collect(http)
    started_s = choices[0].first_chunk_s or admitted.admitted_s
    found = [choice for choice in choices if choice.chunks] or choices[:1]
    best, *others = sorted(found, key=lambda choice: mean_logprob(choice.chunks), reverse=True)
    reply: dict[str, Any] = {"generated_text": _text(admitted, best)}
    reply |= admitted.session(best.finish)
    if admitted.has_details and best.chunks:
        reply["details"] = _details(admitted, best)
        if others:
            reply["details"]["best_of_sequences"] = [
                {"generated_text": _text(admitted, other)} | _details(admitted, other)
                for other in others
            ]
    content = _json(reply)
    response = Response(f"[{content}]" if in_list else content, media_type="application/json")
    response.raw_headers += _timing_headers(admitted, started_s, best.n_tokens)
    return response


def _json(reply: dict[str, Any]) -> str:
    """Return as `json.dumps`, which makes an encoder for each object; a text alone needs none."""
    if len(reply) == 1:
        return f'{{"generated_text": {json.dumps(reply["generated_text"])}}}'
    return json.dumps(reply, ensure_ascii=True)


def _text(admitted: AdmittedRequest, choice: ChoiceState) -> str:
    return admitted.echoed_prompt + admitted.completion_text(
        choice.tokens, choice.finish, choice.index
    )


def _details(admitted: AdmittedRequest, choice: ChoiceState) -> dict[str, Any]:
    """Return the details of one text: its tokens are those of a stream's events."""
    finish = choice.finish
    if finish is None:  # the client has disconnected
        return {}
    tokenizer, texts = admitted.model.tokenizer, admitted.token_texts(choice)
    end_ids = frozenset(tokenizer.end_ids)
    tokens = [
        _token(tokenizer, Token(token, logprob)) | {"text": text, "special": token in end_ids}
        for text, token, logprob in zip(texts, choice.tokens, choice.logprobs, strict=False)
    ]
    if finish.stop_token is not None:
        text = texts[-1]
        tokens.append(_token(tokenizer, finish.stop_token) | {"text": text, "special": not text})
    details = _finish_details(admitted, finish)
    details["seed"] = seed_of(details["seed"], choice.index)
    details |= {"prefill": _prefill(admitted), "tokens": tokens}
    if choice.top_tokens:
        details["top_tokens"] = [
            [_token(tokenizer, token) for token in top] for top in choice.top_tokens
        ]
    return details


def _prefill(admitted: AdmittedRequest) -> list[dict[str, Any]]:
    """Return the prompt's tokens with their logprobs, if requested."""
    scores = admitted.completions.prompt_logprobs(0)
    if scores is None:
        return []
    tokenizer = admitted.model.tokenizer
    return [
        {
            "id": token,
            "text": tokenizer.text_of(token),
            "logprob": None if logprob is None else rounded(logprob),
        }
        for token, logprob in zip(admitted.requests[0].prompt, scores.logprobs, strict=True)
    ]


def _token(tokenizer: Tokenizer, token: Token) -> dict[str, Any]:
    text = tokenizer.text_of(token.id)
    return {
        "id": token.id,
        "text": text,
        "logprob": rounded(token.logprob),
        "special": False,
    }


def _timing_headers(admitted: AdmittedRequest, started_s: float, generated: int) -> RawHeaders:
    """Return TGI's timing headers, in milliseconds."""
    now_s, arrived_s, admitted_s = time.perf_counter(), admitted.arrived_s, admitted.admitted_s
    inference_ms = 1e3 * (now_s - started_s)
    return [
        (b"x-compute-type", b"cpu"),
        (b"x-compute-time", b"%.6f" % (now_s - arrived_s)),
        (b"x-compute-characters", b"%d" % admitted.prompt_characters),
        (b"x-prompt-tokens", b"%d" % admitted.prompt_tokens),
        (b"x-generated-tokens", b"%d" % generated),
        (b"x-total-time", b"%.0f" % (1e3 * (now_s - arrived_s))),
        (b"x-validation-time", b"%.0f" % (1e3 * (admitted_s - arrived_s))),
        (b"x-queue-time", b"%.0f" % (1e3 * (started_s - admitted_s))),
        (b"x-inference-time", b"%.0f" % inference_ms),
        (b"x-time-per-token", b"%.0f" % (inference_ms / max(1, generated))),
    ]
