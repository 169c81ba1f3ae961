"""Replies of /v1/chat/completions: from chunks to one JSON object or to a stream of events."""

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import Request, Response

from service.api.admitted_request import AdmittedRequest, ChoiceState
from service.api.errors import error_event
from service.api.openai.responses import DONE, data_of, finish_fields, head_of, usage_of
from service.api.openai.schemas import CompletionBody
from service.api.sse import rounded
from service.errors import CarouselError
from service.generation.request import Chunk, Token
from service.models.tokenizers.tokenizer import Tokenizer


async def whole_chat(http: Request, admitted: AdmittedRequest, body: CompletionBody) -> Response:
    """Return all replies once they have ended."""
    choices = await admitted.collect(http)
    content = head_of(admitted, body, "chatcmpl", "chat.completion") | {
        "choices": [_whole_choice(admitted, body, choice) for choice in choices if choice.chunks],
        "usage": usage_of(admitted, choices),
    }
    content |= admitted.session(choices[0].finish)
    return Response(json.dumps(content, ensure_ascii=True), media_type="application/json")


def _whole_choice(
    admitted: AdmittedRequest, body: CompletionBody, choice: ChoiceState
) -> dict[str, Any]:
    text = admitted.completion_text(choice.tokens, choice.finish, choice.index)
    logprobs = None
    if body.logprobs is not None:
        tokenizer, tops = admitted.model.tokenizer, choice.top_tokens
        logprobs = _logprobs(tokenizer, choice.tokens, choice.logprobs, tops)
    return {
        "index": choice.index,
        "message": {"role": "assistant", "content": text},
        "logprobs": logprobs,
        "finish_reason": None,
        "stop_reason": None,
    } | finish_fields(choice)


async def chat_events(
    admitted: AdmittedRequest, body: CompletionBody
) -> AsyncGenerator[bytes, None]:
    """Yield the events of a burst as one piece of bytes; an error is the last before `[DONE]`."""
    encoder = _ChatEventEncoder(admitted, body)
    try:
        yield encoder.opening()
        async for index, chunk in admitted.completions:
            admitted.stats.count(chunk, index)
            piece = encoder.events(index, chunk)
            if piece:  # else a stop string holds the tokens back
                yield piece
        yield encoder.end()
    except CarouselError as error:
        admitted.stats.failed(error)
        yield error_event(error, "/v1", **encoder.resume) + DONE


class _ChatEventEncoder:
    """Encodes the events of one stream. What all of them share is encoded once."""

    def __init__(self, admitted: AdmittedRequest, body: CompletionBody) -> None:
        options = body.stream_options
        self._admitted, self._tokenizer = admitted, admitted.model.tokenizer
        self._texts = admitted.model.runtime.encoder.texts
        self._has_usage = bool(options and options.include_usage)
        self._has_usage_each = bool(options and options.continuous_usage_stats)
        self._has_logprobs = body.logprobs is not None
        self._ids, self._choices = admitted.ids, admitted.choices()
        self._decoders = [admitted.decoder(choice.index) for choice in self._choices]
        has_details = self._has_logprobs or self._has_usage_each
        self._is_plain = not has_details and not any(self._decoders)
        self._head = head_of(admitted, body, "chatcmpl", "chat.completion.chunk")
        self._start = f'data: {json.dumps(self._head)[:-1]}, "choices": [{{"index": '
        usage = ', "usage": null' if self._has_usage else ""
        self._rest = (
            f'}}, "logprobs": null, "finish_reason": null, "stop_reason": null}}]{usage}}}\n\n'
        )

    @property
    def resume(self) -> dict[str, str]:
        """The id of the last event, in a session: a client continues after it."""
        if self._ids is None:
            return {}
        return {"resume": f"{self._ids.prefix}{self._ids.first + self._choices[0].n_tokens}"}

    def opening(self) -> bytes:
        """Encode the first event of each choice: whose message it is."""
        events = []
        for choice in self._choices:
            line = self._ids.line(0).encode("ascii") if self._ids else b""
            delta = {"role": "assistant", "content": ""}
            events.append(line + data_of(self._content(_choice(choice.index, delta))))
        return b"".join(events)

    def events(self, index: int, chunk: Chunk) -> bytes:
        """Encode a chunk of one choice."""
        choice = self._choices[index]
        first, n = choice.n_tokens, len(chunk.tokens)
        choice.update_counts(chunk)
        n_plain, plain = 0, b""
        if self._is_plain:
            n_plain = n if chunk.finish is None else max(0, n - 1)
            plain = self._plain_events(index, first, chunk.tokens[:n_plain])
        rest = [
            self._event(choice, chunk, i, is_last=chunk.finish is not None and i >= n - 1)
            for i in range(n_plain, max(n, 1 if chunk.finish else 0))
        ]
        return b"".join((plain, *rest))

    def end(self) -> bytes:
        """Encode the usage, if requested, and the end of the stream."""
        if not self._has_usage:
            return DONE
        usage = usage_of(self._admitted, self._choices)
        return data_of(self._head | {"choices": [], "usage": usage}) + DONE

    def _plain_events(self, index: int, first: int, tokens: Sequence[int]) -> bytes:
        """Encode events that have nothing but the text of a token. This is the hot path."""
        if not tokens:
            return b""
        texts, rest = self._texts, self._rest
        start = f'{self._start}{index}, "delta": {{"content": '
        if self._ids is None:
            events = (rest + start).join([texts[token] for token in tokens])
            return f"{start}{events}{rest}".encode("ascii")
        line, before = f"id: {self._ids.prefix}", self._ids.first + 1
        events = "".join(
            [
                f"{line}{before + i}\n{start}{texts[token]}{rest}"
                for i, token in enumerate(tokens, first)
            ]
        )
        return events.encode("ascii")

    def _event(self, choice: ChoiceState, chunk: Chunk, i: int, *, is_last: bool) -> bytes:
        """Encode the event of token `i` with all its members; the last may have no token."""
        tokens = list(chunk.tokens[i : i + 1])
        text, decoder = self._tokenizer.decode(tokens), self._decoders[choice.index]
        if decoder is not None:
            text = "".join(decoder.texts(tokens))
        content = _choice(choice.index, {"content": text})
        if self._has_logprobs:
            tops, logprobs = chunk.top_tokens[i : i + 1], chunk.logprobs[i : i + 1]
            content["logprobs"] = _logprobs(self._tokenizer, tokens, logprobs, tops)
        position = choice.n_tokens - len(chunk.tokens) + i + 1
        session: dict[str, Any] = {}
        if is_last and chunk.finish is not None:
            content |= finish_fields(choice)
            end = chunk.finish.partial.decode("utf-8", "replace")
            content["delta"]["content"] += end if decoder is None else decoder.end(chunk.finish)
            session = self._admitted.session(chunk.finish)
            position = chunk.finish.generated_tokens
        line = self._ids.line(position).encode("ascii") if self._ids else b""
        return line + data_of(self._content(content) | session)

    def _content(self, choice: dict[str, Any]) -> dict[str, Any]:
        content = self._head | {"choices": [choice]}
        if self._has_usage_each:
            content["usage"] = usage_of(self._admitted, self._choices)
        elif self._has_usage:
            content["usage"] = None
        return content


def _choice(index: int, delta: dict[str, str]) -> dict[str, Any]:
    unset = {"logprobs": None, "finish_reason": None, "stop_reason": None}
    return {"index": index, "delta": delta} | unset


def _logprobs(
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    tops: Sequence[Sequence[Token]],
) -> dict[str, Any]:
    """Return the `logprobs` of tokens (ChatLogprobs)."""
    rows = zip(tokens, logprobs, tops or [()] * len(tokens), strict=True)
    return {
        "content": [
            _token(tokenizer, token, logprob)
            | {"top_logprobs": [_token(tokenizer, one.id, one.logprob) for one in top]}
            for token, logprob, top in rows
        ],
        "refusal": None,
    }


def _token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    return {
        "token": tokenizer.text_of(token),
        "logprob": rounded(logprob),
        "bytes": list(tokenizer.bytes_of(token)),
    }
