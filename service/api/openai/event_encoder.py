"""The events of a stream of OpenAI's routes: what completions and chat have in common."""

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from service.api.admitted_request import AdmittedRequest, ChoiceState
from service.api.errors import error_event
from service.api.openai.schemas import CompletionBody
from service.errors import CarouselError
from service.generation.request import Chunk, FinishReason, Token

DONE = b"data: [DONE]\n\n"
UNSET = {"logprobs": None, "finish_reason": None, "stop_reason": None}


class OpenAIEventEncoder(ABC):
    """Encodes the events of one stream. What all of them share is encoded once."""

    def __init__(
        self,
        admitted: AdmittedRequest,
        body: CompletionBody,
        head: dict[str, Any],
        around_text: tuple[str, str],
        *,
        is_plain: bool,
    ) -> None:
        """`head` begins each event; `around_text` is a choice's JSON on both sides of its text.

        With `is_plain` an event has nothing but the text of a token, unless it is the last.
        """
        options = body.stream_options
        self._admitted, self._tokenizer = admitted, admitted.model.tokenizer
        self._texts = admitted.model.runtime.encoder.texts
        self._has_usage = bool(options and options.include_usage)
        self._has_usage_each = bool(options and options.continuous_usage_stats)
        self._ids, self._choices = admitted.ids, admitted.choices()
        self._decoders = [admitted.decoder(choice.index) for choice in self._choices]
        self._is_plain = is_plain and not self._has_usage_each and not any(self._decoders)
        self._head = head
        self._start = f'data: {json.dumps(head)[:-1]}, "choices": [{{"index": '
        usage = ', "usage": null' if self._has_usage else ""
        self._before_text, after_text = around_text
        unset = json.dumps(UNSET)[1:-1]
        self._rest = f"{after_text}, {unset}}}]{usage}}}\n\n"

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the events of a burst as one piece; an error is the last before `[DONE]`."""
        admitted = self._admitted
        try:
            if beginning := self._beginning():
                yield beginning
            async for index, chunk in admitted.completions:
                admitted.stats.count(chunk, index)
                piece = self._events(index, chunk)
                if piece:  # else a stop string holds the tokens back
                    yield piece
            yield self._end()
        except CarouselError as error:
            admitted.stats.failed(error)
            yield error_event(error, "/v1", **self._resume) + DONE

    def _beginning(self) -> bytes:
        """Encode what comes before everything."""
        return b""

    def _opening(self, index: int) -> bytes:  # noqa: ARG002 (a choice of its own has one)
        """Encode what comes before a choice's chunk."""
        return b""

    @abstractmethod
    def _choice(
        self,
        choice: ChoiceState,
        text: str,
        tokens: list[int],
        logprobs: Sequence[float],
        tops: Sequence[Sequence[Token]],
    ) -> dict[str, Any]:
        """Return the choice of an event of one token, or of none."""

    @abstractmethod
    def _add_end(self, content: dict[str, Any], choice: ChoiceState, text: str) -> None:
        """Add the rest of the text to the last event of a choice."""

    @property
    def _resume(self) -> dict[str, str]:
        """The id of the last event, in a session: a client continues after it."""
        if self._ids is None:
            return {}
        return {"resume": f"{self._ids.prefix}{self._ids.first + self._choices[0].n_tokens}"}

    def _events(self, index: int, chunk: Chunk) -> bytes:
        opening, choice = self._opening(index), self._choices[index]
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

    def _end(self) -> bytes:
        """Encode the usage, if requested, and the end of the stream."""
        if not self._has_usage:
            return DONE
        usage = usage_of(self._admitted, self._choices)
        return data_of(self._head | {"choices": [], "usage": usage}) + DONE

    def _plain_events(self, index: int, first: int, tokens: Sequence[int]) -> bytes:
        """Encode events that have nothing but the text of a token. This is the hot path."""
        if not tokens:
            return b""
        texts, start, rest = self._texts, f"{self._start}{index}{self._before_text}", self._rest
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
        tops, logprobs = chunk.top_tokens[i : i + 1], chunk.logprobs[i : i + 1]
        content = self._choice(choice, text, tokens, logprobs, tops)
        position = choice.n_tokens - len(chunk.tokens) + i + 1
        session: dict[str, Any] = {}
        if is_last and chunk.finish is not None:
            content |= finish_fields(choice)
            end = chunk.finish.partial.decode("utf-8", "replace")
            end = end if decoder is None else decoder.end(chunk.finish)
            self._add_end(content, choice, end)
            session = {**self._admitted.session(chunk.finish), **self._admitted.steer}
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
