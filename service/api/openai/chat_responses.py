"""Replies of /v1/chat/completions: from chunks to one JSON object or to a stream of events."""

import json
from collections.abc import AsyncGenerator, Sequence
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
from service.api.openai.responses import head_of
from service.api.openai.schemas import CompletionBody
from service.api.sse import rounded
from service.generation.request import Token
from service.models.tokenizers.tokenizer import Tokenizer


async def whole_chat(http: Request, admitted: AdmittedRequest, body: CompletionBody) -> Response:
    """Return all replies once they have ended."""
    choices = await admitted.collect(http)
    content = head_of(admitted, body, "chatcmpl", "chat.completion") | {
        "choices": [_whole_choice(admitted, body, choice) for choice in choices if choice.chunks],
        "usage": usage_of(admitted, choices),
    }
    content |= {**admitted.session(choices[0].finish), **admitted.steer}
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
        **UNSET,
        "logprobs": logprobs,
        **finish_fields(choice),
    }


def chat_events(admitted: AdmittedRequest, body: CompletionBody) -> AsyncGenerator[bytes, None]:
    """Yield the events of a burst as one piece of bytes; an error is the last before `[DONE]`."""
    return _ChatEventEncoder(admitted, body).stream()


class _ChatEventEncoder(OpenAIEventEncoder):
    """Encodes the events of one stream of replies."""

    def __init__(self, admitted: AdmittedRequest, body: CompletionBody) -> None:
        self._has_logprobs = body.logprobs is not None
        super().__init__(
            admitted,
            body,
            head_of(admitted, body, "chatcmpl", "chat.completion.chunk"),
            (', "delta": {"content": ', "}"),
            is_plain=not self._has_logprobs,
        )

    def _beginning(self) -> bytes:
        """Encode the first event of each choice: whose message it is."""
        events = []
        for choice in self._choices:
            line = self._ids.line(0).encode("ascii") if self._ids else b""
            delta = {"role": "assistant", "content": ""}
            events.append(line + data_of(self._content(_choice(choice.index, delta))))
        return b"".join(events)

    def _choice(
        self,
        choice: ChoiceState,
        text: str,
        tokens: list[int],
        logprobs: Sequence[float],
        tops: Sequence[Sequence[Token]],
    ) -> dict[str, Any]:
        content = _choice(choice.index, {"content": text})
        if self._has_logprobs:
            content["logprobs"] = _logprobs(self._tokenizer, tokens, logprobs, tops)
        return content

    def _add_end(self, content: dict[str, Any], choice: ChoiceState, text: str) -> None:  # noqa: ARG002
        content["delta"]["content"] += text


def _choice(index: int, delta: dict[str, str]) -> dict[str, Any]:
    return {"index": index, "delta": delta} | UNSET


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
