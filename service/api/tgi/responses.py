"""What generate routes answer with: from chunks to a reply or a stream of events."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response

from service.api.errors import problem_body
from service.api.sse import EventEncoder, EventIds, SSEResponse, rounded
from service.api.state import ServedModel
from service.errors import CarouselError
from service.generation.completions import (
    CompletionStream,
    SingleCompletion,
    mean_logprob,
    seed_of,
)
from service.generation.request import Chunk, Finish, GenerationRequest, Token
from service.models.tokenizer import Tokenizer
from service.sessions.replay import Replay
from service.sessions.session import SessionKey, Turn

NO_TOKEN = Token(0, 0.0)
"""Stands where a text ends without one more: an empty one that is complete, one out of time."""


@dataclass(frozen=True, slots=True)
class AdmittedGeneration:
    """One generation that has been admitted, with what its reply needs."""

    model: ServedModel
    request: GenerationRequest
    choices: CompletionStream
    prefix: str  # what `generated_text` begins with
    has_details: bool
    began_s: float
    session_id: str | None = None
    turn: Turn | None = None  # where there is a session
    said: Sequence[int] = ()  # tokens of the turn that an earlier stream has shown
    admitted_s: float = field(default_factory=time.perf_counter)

    @property
    def ids(self) -> EventIds | None:
        """How the events are called, in a session."""
        turn = self.turn
        return EventIds(f"{turn.epoch}.{turn.number}.", turn.first) if turn else None

    @property
    def input_length(self) -> int:
        """How many tokens the prompt had."""
        return self.turn.first - self.turn.start if self.turn else len(self.request.prompt)

    def session(self, generated: int) -> dict[str, object] | None:
        """The reply's `session`."""
        if self.turn is None:
            return None
        position = self.turn.first + generated
        return {"id": self.session_id, "position": position, "turn": self.turn.number}


def job_of_replay(
    model: ServedModel, key: SessionKey, replay: Replay, began_s: float
) -> AdmittedGeneration:
    """The job that a turn was, from the event on that the replay begins with."""
    record, turn = replay.record, replay.turn
    return AdmittedGeneration(
        model,
        record.request(()),
        SingleCompletion(replay, replay.cancel),
        prefix=replay.prompt or record.reply.get("prefix", ""),
        has_details=record.reply.get("details", False),
        began_s=began_s,
        session_id=key.id,
        turn=turn,
        said=replay.generated,
    )


# -- a stream


def streamed(job: AdmittedGeneration) -> Response:
    """One event for each token; an error on the way is the last one."""
    headers = {
        "x-compute-type": "cpu",
        "x-compute-characters": str(job.input_length),
    }
    return SSEResponse(_pieces(job), headers, on_end=job.choices.cancel)


async def _pieces(job: AdmittedGeneration) -> AsyncGenerator[bytes, None]:
    """The bytes of a stream, a piece each burst; an error on the way is its last event."""
    writer, index = job.model.runtime.writer, 1 + len(job.said)
    shown = list(job.said)
    try:
        async for _, chunk in job.choices:
            shown.extend(chunk.tokens)
            if chunk.finish is None and not chunk.tokens:
                continue  # a stop string holds back what there is
            if chunk.finish is None:
                yield writer.events(index, chunk, job.ids)
            else:
                yield _last_piece(writer, index, chunk, chunk.finish, job, shown)
            index += len(chunk.tokens)
    except CarouselError as error:
        more = {"resume": f"{job.ids.prefix}{job.ids.first + index - 1}"} if job.ids else {}
        yield b"data: " + problem_body(error, more) + b"\n\n"


def _last_piece(
    writer: EventEncoder,
    index: int,
    chunk: Chunk,
    finish: Finish,
    job: AdmittedGeneration,
    shown: Sequence[int],
) -> bytes:
    text = job.prefix + job.model.tokenizer.decode(shown)
    details = _details(finish, job) | {"input_length": job.input_length}
    last, top, plain = finish.stop_token, chunk.top_tokens[-1:], chunk
    is_hidden = last is not None or not chunk.tokens
    if not chunk.tokens:
        last = last or NO_TOKEN
    elif last is None:
        last = Token(chunk.tokens[-1], chunk.logprobs[-1])
        plain = Chunk(chunk.tokens[:-1], chunk.logprobs[:-1], chunk.top_tokens[:-1])
    end = writer.last_event(
        finish.generated_tokens if job.ids else index + len(plain.tokens),
        last,
        top[0] if top else (),
        text,
        details,
        is_hidden=is_hidden,
        ids=job.ids,
        session=job.session(finish.generated_tokens),
    )
    return writer.events(index, plain, job.ids) + end


def _details(finish: Finish, job: AdmittedGeneration) -> dict[str, Any]:
    return {
        "finish_reason": finish.reason,
        "generated_tokens": finish.generated_tokens,
        "seed": job.request.sampling.seed,
    }


# -- a whole reply


async def whole(http: Request, job: AdmittedGeneration, *, in_list: bool = False) -> Response:
    """All of it at once, unless the client leaves before."""
    texts: dict[int, list[Chunk]] = {0: []}
    first_s = job.admitted_s
    watch = asyncio.ensure_future(cancel_when_gone(http, job.choices))
    try:
        async for index, chunk in job.choices:
            first_s = first_s if texts[0] else time.perf_counter()
            texts.setdefault(index, []).append(chunk)
    finally:
        watch.cancel()
        job.choices.cancel()
    ranked = sorted(sorted(texts), key=lambda i: mean_logprob(texts[i]), reverse=True)
    best, chunks = ranked[0], texts[ranked[0]]
    reply: dict[str, Any] = {"generated_text": _text(chunks, job)}
    if chunks and chunks[-1].finish is not None and job.turn is not None:
        reply["session"] = job.session(chunks[-1].finish.generated_tokens)
    if job.has_details and chunks:
        reply["details"] = _whole_details(chunks, best, job)
        others = [
            {"generated_text": _text(texts[i], job)} | _whole_details(texts[i], i, job)
            for i in ranked[1:]
        ]
        if others:
            reply["details"]["best_of_sequences"] = others
    content = json.dumps([reply] if in_list else reply, ensure_ascii=True)
    headers = _times(job, first_s, sum(len(chunk.tokens) for chunk in chunks))
    return Response(content, headers=headers, media_type="application/json")


async def cancel_when_gone(http: Request, source: CompletionStream) -> None:
    """Stop what a request waits for, once its client has gone."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
    source.cancel()


def _text(chunks: Sequence[Chunk], job: AdmittedGeneration) -> str:
    tokens = (token for chunk in chunks for token in chunk.tokens)
    return job.prefix + job.model.tokenizer.decode(tokens)


def _whole_details(chunks: Sequence[Chunk], index: int, job: AdmittedGeneration) -> dict[str, Any]:
    """Of one choice: the same tokens as a stream's events, that of a stop string's end included."""
    finish = chunks[-1].finish
    if finish is None:  # the client has gone
        return {}
    tokenizer = job.model.tokenizer
    tokens = [
        _token(tokenizer, Token(*one))
        for chunk in chunks
        for one in zip(chunk.tokens, chunk.logprobs, strict=True)
    ]
    if finish.stop_token is not None:
        tokens.append(_token(tokenizer, finish.stop_token) | {"text": "", "special": True})
    seed = seed_of(job.request.sampling.seed, index)
    details = _details(finish, job) | {"seed": seed, "prefill": _prefill(job), "tokens": tokens}
    top = [likeliest for chunk in chunks for likeliest in chunk.top_tokens]
    if top:
        details["top_tokens"] = [[_token(tokenizer, token) for token in one] for one in top]
    return details


def _prefill(job: AdmittedGeneration) -> list[dict[str, Any]]:
    """The prompt's tokens, where they were asked for."""
    scored = job.choices.prompt_logprobs(0)
    if scored is None:
        return []
    tokenizer = job.model.tokenizer
    return [
        {
            "id": token,
            "text": tokenizer.text_of(token),
            "logprob": None if logprob is None else rounded(logprob),
        }
        for token, logprob in zip(job.request.prompt, scored.logprobs, strict=True)
    ]


def _token(tokenizer: Tokenizer, token: Token) -> dict[str, Any]:
    text = tokenizer.text_of(token.id)
    return {"id": token.id, "text": text, "logprob": rounded(token.logprob), "special": False}


def _times(job: AdmittedGeneration, first_s: float, generated: int) -> dict[str, str]:
    """TGI's timing headers, in milliseconds."""
    now_s = time.perf_counter()
    spans_s = {
        "total-time": now_s - job.began_s,
        "validation-time": job.admitted_s - job.began_s,
        "queue-time": first_s - job.admitted_s,
        "inference-time": now_s - first_s,
        "time-per-token": (now_s - first_s) / max(1, generated),
    }
    return {
        "x-compute-type": "cpu",
        "x-compute-time": f"{now_s - job.began_s:.6f}",
        "x-compute-characters": str(job.input_length),
        "x-prompt-tokens": str(job.input_length),
        "x-generated-tokens": str(generated),
    } | {f"x-{name}": str(round(1e3 * span_s)) for name, span_s in spans_s.items()}
