"""The score routes: how likely a model finds a text, token by token and in sum."""

import asyncio
import codecs
import json
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field

from service.api.bodies import Body, Id, Name, Text
from service.api.errors import problem_body
from service.api.sse import SSEResponse
from service.api.state import ServedModel, get_state, session_model
from service.api.tgi.schemas import Responses, events_of
from service.errors import CarouselError, Validation
from service.generation.request import Chunk
from service.generation.score import Score, Scorer
from service.models.tokenizer import Tokenizer
from service.sessions.session import Session

MAX_WHOLE_CHARACTERS = 100_000
"""Of a text whose reply shows every token; a stream shows any number of them."""

MAX_TEXT_BYTES = 1024 * 1024 * 1024

_TEXT_KINDS = {"text/plain", "application/octet-stream"}

router = APIRouter(tags=["score"])


class ScoreBody(Body):
    """The body of POST /score."""

    inputs: Annotated[Text, Field(min_length=1)]
    model: Name | None = None
    session_id: Id | None = None
    details: bool = True
    stream: bool = False


class ScoredToken(BaseModel):
    """A token of the text; `logprob` is null where nothing came before it."""

    id: int
    text: str
    logprob: float | None


class SumsReply(BaseModel):
    """What a text sums to: of its characters that have a logprob."""

    characters: int
    nats: float
    bits_per_character: float | None
    bits_per_byte: float | None
    perplexity: float | None


class ScoreReply(SumsReply):
    """The sums and, unless `details` is false, every token."""

    tokens: list[ScoredToken] | None = None


class ScoreEvent(ScoreReply):
    """An event of a stream: the tokens that are new, and the sums so far."""

    done: bool  # true in the last one


_SCORE: Responses = {
    200: {
        "model": ScoreReply,
        "content": events_of("a burst's tokens, or the end.", "ScoreEvent", "Problem"),
        "description": "The score; with `stream`, events.",
    }
}
_SUMS: Responses = {200: {"model": SumsReply}}
_TEXT_BODY = {
    "requestBody": {"required": True, "content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.post("/score", response_class=Response, responses=_SCORE)
async def score(request: Request, body: ScoreBody) -> Response:
    """Score a text; in a session as what may come next, and the session stays as it is."""
    model, scorer = await _admit(request, body.model, body.session_id)
    if not await asyncio.to_thread(model.tokenizer.encode, body.inputs):
        raise Validation("Input validation error: `inputs` has no character that the model knows")
    writer = _TokenWriter(model.tokenizer) if body.details else None
    if body.stream:
        return SSEResponse(_events(scorer, body.inputs, writer), {}, on_end=scorer.cancel)
    if writer is not None and len(body.inputs) > MAX_WHOLE_CHARACTERS:
        raise Validation(
            f"`inputs` has {len(body.inputs)} characters, and a reply shows the tokens of "
            f"{MAX_WHOLE_CHARACTERS}: take a `stream`, or do without them by `details` false"
        )
    watch = asyncio.ensure_future(_cancel_when_gone(request, scorer))
    try:
        pieces = [
            writer.tokens(chunk) if writer else "" async for chunk in scorer.read(body.inputs)
        ]
    finally:
        watch.cancel()
        scorer.cancel()
    tokens = f'"tokens":[{",".join(pieces)}],' if writer else ""
    return Response(f"{{{tokens}{_sums(scorer.score)}}}", media_type="application/json")


@router.post("/score/text", response_class=Response, responses=_SUMS, openapi_extra=_TEXT_BODY)
async def score_text(
    request: Request,
    model: Annotated[str | None, Query(max_length=80)] = None,
    session_id: Annotated[str | None, Query(max_length=80)] = None,
) -> Response:
    """Score a text of any length while it comes: the body as it is, UTF-8. The sums alone."""
    kind = request.headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
    if kind not in _TEXT_KINDS:
        raise HTTPException(415, f"the text is the body itself, as text/plain, not {kind[:80]}")
    _, scorer = await _admit(request, model, session_id)
    decoder, size_bytes, n_chunks = codecs.getincrementaldecoder("utf-8")(), 0, 0
    try:
        async for piece in request.stream():  # an empty one is the last
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                start = size_bytes + len(piece) - len(error.object) + error.start
                raise Validation(f"the text is not UTF-8 from byte {start} on") from error
            size_bytes += len(piece)
            async for _ in scorer.read(text):
                n_chunks += 1
    finally:
        scorer.cancel()
    if not n_chunks:
        raise Validation("Input validation error: the text has no character that the model knows")
    return Response(f"{{{_sums(scorer.score)}}}", media_type="application/json")


async def _admit(
    request: Request, name: str | None, session_id: str | None
) -> tuple[ServedModel, Scorer]:
    """The model, and what reads a text for it from the session's state or from none."""
    serving = get_state(request)
    if session_id is None:
        model = serving.get(name)
        return model, Scorer(model.runtime.engine, model.tokenizer)
    key = serving.key(request, session_id)

    async def begin(session: Session) -> tuple[ServedModel, Scorer]:
        model = serving.get_for(session, name)
        origin, ready = await serving.sessions.records.latest_state(key, session_model(model))
        return model, Scorer(model.runtime.engine, model.tokenizer, origin, ready)

    return await serving.sessions.records.with_session(key, begin)


async def _cancel_when_gone(request: Request, scorer: Scorer) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scorer.cancel()


async def _events(
    scorer: Scorer, text: str, writer: "_TokenWriter | None"
) -> AsyncGenerator[bytes, None]:
    """An event for each burst, and one more for the end; an error on the way is the last one."""
    try:
        async for chunk in scorer.read(text):
            tokens = f'"tokens":[{writer.tokens(chunk)}],' if writer else ""
            yield f'data: {{{tokens}{_sums(scorer.score)},"done":false}}\n\n'.encode("ascii")
        tokens = '"tokens":[],' if writer else ""
        yield f'data: {{{tokens}{_sums(scorer.score)},"done":true}}\n\n'.encode("ascii")
    except CarouselError as error:
        yield b"data: " + problem_body(error) + b"\n\n"


def _sums(score: Score) -> str:
    """The members of a JSON object that say what was summed."""
    sums = {
        "characters": score.characters,
        "nats": score.nats,
        "bits_per_character": score.bits_per_character,
        "bits_per_byte": score.bits_per_byte,
        "perplexity": score.perplexity,
    }
    return json.dumps(sums, separators=(",", ":"))[1:-1]


class _TokenWriter:
    """Makes JSON of chunks; each kind of token is escaped once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._heads: dict[int, str] = {}

    def tokens(self, chunk: Chunk) -> str:
        """The tokens of a chunk, with commas between them."""
        return ",".join(
            f"{self._head(token)}{f'{logprob:.7f}' if logprob <= 0.0 else 'null'}}}"
            for token, logprob in zip(chunk.tokens, chunk.logprobs, strict=True)
        )

    def _head(self, token: int) -> str:
        if token not in self._heads:
            text = json.dumps(self._tokenizer.text_of(token))
            self._heads[token] = f'{{"id":{token},"text":{text},"logprob":'
        return self._heads[token]
