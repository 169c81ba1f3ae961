"""A completion's reply as a whole."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response

from service.api.openai.completion import Completion
from service.api.openai.growing import ChoiceState, LogprobsWriter, prompt_logprobs
from service.api.tgi.responses import cancel_when_gone
from service.generation.request import Chunk


async def whole(http: Request, completion: Completion) -> Response:
    """All of it at once, unless the client leaves before."""
    growing = completion.growing()
    chunks: list[list[Chunk]] = [[] for _ in growing]
    watch = asyncio.ensure_future(cancel_when_gone(http, completion.choices))
    try:
        async for index, chunk in completion.choices:
            growing[index].take(chunk)
            chunks[index].append(chunk)
    finally:
        watch.cancel()
        completion.choices.cancel()
    choices = [
        _choice(completion, index, one, growing[index])
        for index, one in enumerate(chunks)
        if one  # else there are fewer texts than were asked for
    ]
    usage = completion.usage(sum(one.generated for one in growing))
    session = completion.session(growing[0].finish)
    content = completion.head | {"choices": choices, "usage": usage} | session
    return Response(json.dumps(content, ensure_ascii=True), media_type="application/json")


def _choice(
    completion: Completion, index: int, chunks: Sequence[Chunk], growing: ChoiceState
) -> dict[str, Any]:
    body, tokenizer = completion.body, completion.model.tokenizer
    tokens = [token for chunk in chunks for token in chunk.tokens]
    shown = tokens + (growing.held if body.include_stop_str_in_output else [])
    prompt, scored = completion.prompt(index), completion.choices.prompt_logprobs(index)
    before = tokenizer.decode(prompt) if body.echo else ""
    choice: dict[str, Any] = {"index": index, "text": before + tokenizer.decode(shown)}
    choice["logprobs"] = None
    if completion.has_logprobs:
        writer = LogprobsWriter(body, tokenizer)
        logprobs = [logprob for chunk in chunks for logprob in chunk.logprobs]
        tops = [top for chunk in chunks for top in chunk.top_tokens]
        of_text = writer.of(tokens, logprobs, tops, len(before))
        of_prompt = writer.of_prompt(prompt, scored) if body.echo and scored else {}
        choice["logprobs"] = {name: of_prompt.get(name, []) + of_text[name] for name in of_text}
    choice |= growing.ending()
    if body.return_token_ids:
        choice |= {"token_ids": shown, "prompt_token_ids": list(prompt)}
    if body.prompt_logprobs is not None and scored:
        choice["prompt_logprobs"] = prompt_logprobs(prompt, scored, body.prompt_logprobs, tokenizer)
    return choice
