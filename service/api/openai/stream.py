"""The events of a streamed completion: one for each token, `[DONE]` at the end."""

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import Response

from service.api.errors import openai_problem_body
from service.api.openai.completion import Completion
from service.api.openai.growing import ChoiceState, LogprobsWriter
from service.api.sse import SSEResponse
from service.errors import CarouselError
from service.generation.request import Chunk

DONE = b"data: [DONE]\n\n"


def streamed(completion: Completion) -> Response:
    """One event for each token; an error on the way comes before `[DONE]`."""
    return SSEResponse(_pieces(completion), {}, on_end=completion.choices.cancel)


async def _pieces(completion: Completion) -> AsyncGenerator[bytes, None]:
    """The bytes of a stream, a piece each burst."""
    writer = _ChunkWriter(completion)
    try:
        async for index, chunk in completion.choices:
            piece = writer.events(index, chunk)
            if piece:  # else a stop string holds back what there is
                yield piece
        yield writer.end()
    except CarouselError as error:
        yield b"data: " + openai_problem_body(error, writer.resume) + b"\n\n" + DONE


class _ChunkWriter:
    """Makes a completion's events. What is the same in each is written once."""

    def __init__(self, completion: Completion) -> None:
        body, options = completion.body, completion.body.stream_options
        self._completion, self._tokenizer = completion, completion.model.tokenizer
        self._texts = completion.model.runtime.writer.texts
        self._has_usage = bool(options and options.include_usage)
        self._counts = bool(options and options.continuous_usage_stats)
        self._has_token_ids = bool(body.return_token_ids)
        self._logprobs = LogprobsWriter(body, self._tokenizer) if completion.has_logprobs else None
        self._is_plain = not (self._logprobs or self._has_token_ids or self._counts)
        self._ids, self._growing = completion.ids, completion.growing()
        self._head = completion.head
        self._start = f'data: {json.dumps(self._head)[:-1]}, "choices": [{{"index": '
        usage = ', "usage": null' if self._has_usage else ""
        self._rest = (
            f', "logprobs": null, "finish_reason": null, "stop_reason": null}}]{usage}}}\n\n'
        )

    @property
    def resume(self) -> dict[str, str]:
        """In a session, the event that one may go on after."""
        if self._ids is None:
            return {}
        return {"resume": f"{self._ids.prefix}{self._ids.first + self._growing[0].tokens}"}

    def events(self, index: int, chunk: Chunk) -> bytes:
        """The events of a chunk of one choice, that of its prompt before its first."""
        growing = self._growing[index]
        before = b"" if growing.is_open else self._opening(index, growing)
        first = growing.tokens
        growing.take(chunk)
        n = len(chunk.tokens)
        if self._is_plain:
            n_plain = n if chunk.finish is None else max(0, n - 1)
            plain = self._plain(index, first, chunk.tokens[:n_plain])
            growing.characters += n_plain
        else:
            n_plain, plain = 0, b""
        rest = [
            self._event(index, growing, chunk, i, is_last=chunk.finish is not None and i >= n - 1)
            for i in range(n_plain, max(n, 1 if chunk.finish else 0))
        ]
        return b"".join((before, plain, *rest))

    def end(self) -> bytes:
        """The usage, where it was asked for, and the end."""
        if not self._has_usage:
            return DONE
        return _line(self._head | {"choices": [], "usage": self._usage()}) + DONE

    def _opening(self, index: int, growing: ChoiceState) -> bytes:
        """The prompt, where it is echoed, and its tokens, where they are asked for."""
        growing.is_open = True
        body, prompt = self._completion.body, self._completion.prompt(index)
        if not body.echo and not self._has_token_ids:
            return b""
        choice = _choice(index, self._tokenizer.decode(prompt) if body.echo else "")
        scored = self._completion.choices.prompt_logprobs(index)
        if body.echo and self._logprobs and scored:
            choice["logprobs"] = self._logprobs.of_prompt(prompt, scored)
        if self._has_token_ids:
            choice |= {"prompt_token_ids": list(prompt), "token_ids": []}
        growing.characters = len(choice["text"])
        return _line(self._content(choice))

    def _plain(self, index: int, first: int, tokens: Sequence[int]) -> bytes:
        """Events that say nothing but a token's text each; the hot path."""
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

    def _event(
        self, index: int, growing: ChoiceState, chunk: Chunk, i: int, *, is_last: bool
    ) -> bytes:
        """One event of which more is said than its text; `i` may be behind the last token."""
        tokens = list(chunk.tokens[i : i + 1])
        choice = _choice(index, self._tokenizer.decode(tokens))
        if self._logprobs:
            tops = chunk.top_tokens[i : i + 1]
            logprobs = chunk.logprobs[i : i + 1]
            choice["logprobs"] = self._logprobs.of(tokens, logprobs, tops, growing.characters)
        growing.characters += len(choice["text"])
        position = growing.tokens - len(chunk.tokens) + i + 1
        session: dict[str, Any] = {}
        if is_last and chunk.finish is not None:
            choice |= growing.ending()
            if self._completion.body.include_stop_str_in_output:
                choice["text"] += self._tokenizer.decode(growing.held)
                tokens += growing.held
            session, position = (
                self._completion.session(chunk.finish),
                chunk.finish.generated_tokens,
            )
        if self._has_token_ids:
            choice["token_ids"] = tokens
        line = self._ids.line(position).encode("ascii") if self._ids else b""
        return line + _line(self._content(choice) | session)

    def _content(self, choice: dict[str, Any]) -> dict[str, Any]:
        content = self._head | {"choices": [choice]}
        if self._counts:
            content["usage"] = self._usage()
        elif self._has_usage:
            content["usage"] = None
        return content

    def _usage(self) -> dict[str, Any]:
        return self._completion.usage(sum(growing.generated for growing in self._growing))


def _choice(index: int, text: str) -> dict[str, Any]:
    nothing = {"logprobs": None, "finish_reason": None, "stop_reason": None}
    return {"index": index, "text": text} | nothing


def _line(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=True).encode("ascii") + b"\n\n"
