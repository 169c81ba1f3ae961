"""Replies of /v1/completions: from chunks to one JSON object or to a stream of events."""

import json
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from itertools import accumulate
from typing import Any

from fastapi import Request, Response

from service.api.admitted_request import AdmittedRequest, ChoiceState
from service.api.errors import error_event
from service.api.openai.logprobs import LogprobsEncoder, prompt_logprobs
from service.api.openai.schemas import CompletionBody
from service.errors import CarouselError
from service.generation.request import Chunk, FinishReason

DONE = b"data: [DONE]\n\n"
KIND = "text_completion"


async def whole(http: Request, admitted: AdmittedRequest, body: CompletionBody) -> Response:
    """Return all choices once they have ended."""
    head = head_of(admitted, body)
    choices = await admitted.collect(http)
    content = head | {
        "choices": [_whole_choice(admitted, body, choice) for choice in choices if choice.chunks],
        "usage": usage_of(admitted, choices),
    }
    content |= admitted.session(choices[0].finish)
    return Response(json.dumps(content, ensure_ascii=True), media_type="application/json")


def _whole_choice(
    admitted: AdmittedRequest, body: CompletionBody, choice: ChoiceState
) -> dict[str, Any]:
    tokenizer, tokens, finish = admitted.model.tokenizer, choice.tokens, choice.finish
    shown, stop = tokens, ""
    if body.include_stop_str_in_output:
        shown, stop = tokens + choice.held, (finish and finish.stop) or ""
    prompt = admitted.prompt(choice.index)
    scores = admitted.completions.prompt_logprobs(choice.index)
    echoed = admitted.prompt_text(choice.index) if body.echo else ""
    text = admitted.completion_text(tokens, finish, choice.index)
    content = _choice(choice.index, echoed + text + stop)
    if body.logprobs is not None:
        encoder = LogprobsEncoder(body, tokenizer)
        texts = admitted.token_texts(choice)[: len(tokens)]
        offsets = list(accumulate(map(len, texts), initial=len(echoed)))[: len(tokens)]
        own = encoder.of_tokens(tokens, choice.logprobs, choice.top_tokens, offsets)
        of_prompt = {}
        if body.echo and scores:
            of_prompt = encoder.of_prompt(prompt, scores, admitted.prompt_offsets(choice.index))
        content["logprobs"] = {name: of_prompt.get(name, []) + own[name] for name in own}
    content |= finish_fields(choice)
    if body.return_token_ids:
        content |= {"token_ids": shown, "prompt_token_ids": list(prompt)}
    if body.prompt_logprobs is not None and scores:
        content["prompt_logprobs"] = prompt_logprobs(
            prompt, scores, body.prompt_logprobs, tokenizer
        )
    return content


async def events(admitted: AdmittedRequest, body: CompletionBody) -> AsyncGenerator[bytes, None]:
    """Yield the events of a burst as one piece of bytes; an error is the last before `[DONE]`."""
    encoder = _EventEncoder(admitted, body)
    try:
        async for index, chunk in admitted.completions:
            admitted.stats.count(chunk, index)
            piece = encoder.events(index, chunk)
            if piece:  # else a stop string holds the tokens back
                yield piece
        yield encoder.end()
    except CarouselError as error:
        admitted.stats.failed(error)
        yield error_event(error, "/v1", **encoder.resume) + DONE


class _EventEncoder:
    """Encodes the events of one stream. What all of them share is encoded once."""

    def __init__(self, admitted: AdmittedRequest, body: CompletionBody) -> None:
        options, tokenizer = body.stream_options, admitted.model.tokenizer
        self._admitted, self._body, self._tokenizer = admitted, body, tokenizer
        self._texts = admitted.model.runtime.encoder.texts
        self._has_usage = bool(options and options.include_usage)
        self._has_usage_each = bool(options and options.continuous_usage_stats)
        has_logprobs = body.logprobs is not None
        self._logprobs = LogprobsEncoder(body, tokenizer) if has_logprobs else None
        self._ids, self._choices = admitted.ids, admitted.choices()
        self._decoders = [admitted.decoder(choice.index) for choice in self._choices]
        has_details = has_logprobs or body.return_token_ids or self._has_usage_each
        self._is_plain = not has_details and not any(self._decoders)
        self._n_characters = [0] * len(self._choices)  # sent, those of the echoed prompt included
        self._is_open = [False] * len(self._choices)
        self._head = head_of(admitted, body)
        self._start = f'data: {json.dumps(self._head)[:-1]}, "choices": [{{"index": '
        usage = ', "usage": null' if self._has_usage else ""
        self._rest = (
            f', "logprobs": null, "finish_reason": null, "stop_reason": null}}]{usage}}}\n\n'
        )

    @property
    def resume(self) -> dict[str, str]:
        """The id of the last event, in a session: a client continues after it."""
        if self._ids is None:
            return {}
        return {"resume": f"{self._ids.prefix}{self._ids.first + self._choices[0].n_tokens}"}

    def events(self, index: int, chunk: Chunk) -> bytes:
        """Encode a chunk of one choice; before its first chunk, the prompt if requested."""
        opening = b"" if self._is_open[index] else self._opening(index)
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
        return b"".join((opening, plain, *rest))

    def end(self) -> bytes:
        """Encode the usage, if requested, and the end of the stream."""
        if not self._has_usage:
            return DONE
        usage = usage_of(self._admitted, self._choices)
        return data_of(self._head | {"choices": [], "usage": usage}) + DONE

    def _opening(self, index: int) -> bytes:
        """Encode the echoed prompt and its token ids, if requested."""
        self._is_open[index] = True
        body, prompt = self._body, self._admitted.prompt(index)
        if not body.echo and not body.return_token_ids:
            return b""
        choice = _choice(index, self._admitted.prompt_text(index) if body.echo else "")
        scores = self._admitted.completions.prompt_logprobs(index)
        if body.echo and self._logprobs and scores:
            choice["logprobs"] = self._logprobs.of_prompt(
                prompt, scores, self._admitted.prompt_offsets(index)
            )
        if body.return_token_ids:
            choice |= {"prompt_token_ids": list(prompt), "token_ids": []}
        self._n_characters[index] = len(choice["text"])
        return data_of(self._content(choice))

    def _plain_events(self, index: int, first: int, tokens: Sequence[int]) -> bytes:
        """Encode events that have nothing but the text of a token. This is the hot path."""
        if not tokens:
            return b""
        texts, start, rest = self._texts, f'{self._start}{index}, "text": ', self._rest
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
        content = _choice(choice.index, text)
        if self._logprobs:
            tops, logprobs = chunk.top_tokens[i : i + 1], chunk.logprobs[i : i + 1]
            offsets = [self._n_characters[choice.index]] * len(tokens)
            content["logprobs"] = self._logprobs.of_tokens(tokens, logprobs, tops, offsets)
        self._n_characters[choice.index] += len(content["text"])
        position = choice.n_tokens - len(chunk.tokens) + i + 1
        session: dict[str, Any] = {}
        if is_last and chunk.finish is not None:
            content |= finish_fields(choice)
            end = chunk.finish.partial.decode("utf-8", "replace")
            content["text"] += end if decoder is None else decoder.end(chunk.finish)
            if self._body.include_stop_str_in_output:
                content["text"] += chunk.finish.stop or ""
                tokens += choice.held
            session = self._admitted.session(chunk.finish)
            position = chunk.finish.generated_tokens
        if self._body.return_token_ids:
            content["token_ids"] = tokens
        line = self._ids.line(position).encode("ascii") if self._ids else b""
        return line + data_of(self._content(content) | session)

    def _content(self, choice: dict[str, Any]) -> dict[str, Any]:
        content = self._head | {"choices": [choice]}
        if self._has_usage_each:
            content["usage"] = usage_of(self._admitted, self._choices)
        elif self._has_usage:
            content["usage"] = None
        return content


def head_of(
    admitted: AdmittedRequest, body: CompletionBody, prefix: str = "cmpl", kind: str = KIND
) -> dict[str, Any]:
    """Return the members with which a reply and every event of this kind begin."""
    model = admitted.model
    digest = model.manifest.digest.rpartition(":")[2]
    return {
        "id": f"{prefix}-{body.request_id or secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": str(model.ref),
        "system_fingerprint": f"fp_{digest[:12]}_{model.precision}",
    }


def _choice(index: int, text: str) -> dict[str, Any]:
    unset = {"logprobs": None, "finish_reason": None, "stop_reason": None}
    return {"index": index, "text": text} | unset


def finish_fields(choice: ChoiceState) -> dict[str, Any]:
    """Return why a choice ended; `stop_reason` is the stop string."""
    finish = choice.finish
    if finish is None:  # the client has disconnected
        return {}
    reason = "length" if finish.reason is FinishReason.LENGTH else "stop"
    return {"finish_reason": reason, "stop_reason": finish.stop}


def usage_of(admitted: AdmittedRequest, choices: Sequence[ChoiceState]) -> dict[str, Any]:
    """Return the `usage` of a reply (CompletionUsage)."""
    usage, prompt_tokens = admitted.completions.usage, admitted.prompt_tokens
    generated = sum(choice.generated_tokens for choice in choices) + usage.discarded_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": prompt_tokens + generated,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def data_of(content: dict[str, Any]) -> bytes:
    """Encode one event."""
    return b"data: " + json.dumps(content, ensure_ascii=True).encode("ascii") + b"\n\n"
