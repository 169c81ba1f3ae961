"""Replies of /v1/completions: from chunks to one JSON object or to a stream of events."""

import json
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from itertools import accumulate
from typing import Any

from fastapi import Request, Response

from service.api.admitted_request import AdmittedRequest, ChoiceState
from service.api.openai.event_encoder import (
    UNSET,
    OpenAIEventEncoder,
    data_of,
    finish_fields,
    usage_of,
)
from service.api.openai.logprobs import LogprobsEncoder, prompt_logprobs
from service.api.openai.schemas import CompletionBody
from service.generation.request import Token
from service.models.device import Device

KIND = "text_completion"


async def whole(http: Request, admitted: AdmittedRequest, body: CompletionBody) -> Response:
    """Return all choices once they have ended."""
    head = head_of(admitted, body)
    choices = await admitted.collect(http)
    content = head | {
        "choices": [_whole_choice(admitted, body, choice) for choice in choices if choice.chunks],
        "usage": usage_of(admitted, choices),
    }
    content |= {**admitted.session(choices[0].finish), **admitted.steer}
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


def events(admitted: AdmittedRequest, body: CompletionBody) -> AsyncGenerator[bytes, None]:
    """Yield the events of a burst as one piece of bytes; an error is the last before `[DONE]`."""
    return _CompletionEventEncoder(admitted, body).stream()


class _CompletionEventEncoder(OpenAIEventEncoder):
    """Encodes the events of one stream of completions."""

    def __init__(self, admitted: AdmittedRequest, body: CompletionBody) -> None:
        has_logprobs, tokenizer = body.logprobs is not None, admitted.model.tokenizer
        super().__init__(
            admitted,
            body,
            head_of(admitted, body),
            (', "text": ', ""),
            is_plain=not has_logprobs and not body.return_token_ids,
        )
        self._body = body
        self._logprobs = LogprobsEncoder(body, tokenizer) if has_logprobs else None
        self._n_characters = [0] * len(self._choices)  # sent, those of the echoed prompt included
        self._is_open = [False] * len(self._choices)

    def _opening(self, index: int) -> bytes:
        """Encode the echoed prompt and its token ids, if requested, before the first chunk."""
        if self._is_open[index]:
            return b""
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

    def _choice(
        self,
        choice: ChoiceState,
        text: str,
        tokens: list[int],
        logprobs: Sequence[float],
        tops: Sequence[Sequence[Token]],
    ) -> dict[str, Any]:
        content = _choice(choice.index, text)
        if self._logprobs:
            offsets = [self._n_characters[choice.index]] * len(tokens)
            content["logprobs"] = self._logprobs.of_tokens(tokens, logprobs, tops, offsets)
        self._n_characters[choice.index] += len(text)
        if self._body.return_token_ids:
            content["token_ids"] = tokens
        return content

    def _add_end(self, content: dict[str, Any], choice: ChoiceState, text: str) -> None:
        content["text"] += text
        if self._body.include_stop_str_in_output:
            content["text"] += (choice.finish and choice.finish.stop) or ""
            if self._body.return_token_ids:
                content["token_ids"] += choice.held


def head_of(
    admitted: AdmittedRequest, body: CompletionBody, prefix: str = "cmpl", kind: str = KIND
) -> dict[str, Any]:
    """Return the members with which a reply and every event of this kind begin."""
    model = admitted.model
    digest = model.manifest.digest.rpartition(":")[2]
    other = "_gpu" if model.runtime.device is Device.GPU else ""  # another rounding
    other = "_steered" if admitted.steer else other
    return {
        "id": f"{prefix}-{body.request_id or secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": str(model.ref),
        "system_fingerprint": f"fp_{digest[:12]}_{model.precision}{other}",
    }


def _choice(index: int, text: str) -> dict[str, Any]:
    return {"index": index, "text": text} | UNSET
