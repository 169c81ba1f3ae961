"""One choice while it grows, and how its parts are told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from service.api.openai.bodies import CompletionBody
from service.api.sse import rounded
from service.generation.prefill import PromptLogprobs
from service.generation.request import Chunk, Finish, FinishReason, Token
from service.models.tokenizer import Tokenizer

FINISH_REASONS = {
    FinishReason.LENGTH: "length",
    FinishReason.STOP_SEQUENCE: "stop",
    FinishReason.EOS_TOKEN: "stop",
}


@dataclass(slots=True)
class ChoiceState:
    """What is known of a choice so far."""

    stops: tuple[str, ...]
    is_open: bool = False  # whether anything of it was told
    tokens: int = 0  # shown
    characters: int = 0  # told, the echoed prompt's too
    held: list[int] = field(default_factory=list)  # drawn, and not shown yet
    finish: Finish | None = None

    @property
    def generated(self) -> int:
        """How many tokens were drawn for it."""
        if self.finish is not None:
            return self.finish.generated_tokens
        return self.tokens + len(self.held)

    def take(self, chunk: Chunk) -> None:
        """Count what a chunk brings."""
        self.tokens += len(chunk.tokens)
        self.finish = chunk.finish
        if self.stops:
            self.held += chunk.drawn
            del self.held[: len(chunk.tokens)]

    def ending(self) -> dict[str, Any]:
        """Why it ended: `stop_reason` is the stop string."""
        if self.finish is None:  # the client has gone
            return {}
        finish = self.finish
        return {"finish_reason": FINISH_REASONS[finish.reason], "stop_reason": finish.stop}


class LogprobsWriter:
    """Writes OpenAI's `logprobs` of a body's choices."""

    def __init__(self, body: CompletionBody, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._as_ids = tokenizer, bool(body.return_tokens_as_token_ids)
        self._n = body.logprobs or 0

    def of(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[float | None],
        tops: Sequence[Sequence[Token]],
        first: int,
    ) -> dict[str, Any]:
        """Of tokens in order, whose text begins at the character `first`.

        A logprob is None where nothing came before the token.
        """
        offsets, at = [], first
        for token in tokens:
            offsets.append(at)
            at += len(self._tokenizer.text_of(token))
        return {
            "tokens": [self._name(token) for token in tokens],
            "token_logprobs": [None if one is None else rounded(one) for one in logprobs],
            "top_logprobs": [
                None if one is None else self._likeliest(token, one, top)
                for token, one, top in zip(
                    tokens, logprobs, tops or [()] * len(tokens), strict=True
                )
            ],
            "text_offset": offsets,
        }

    def of_prompt(self, prompt: Sequence[int], scored: PromptLogprobs) -> dict[str, Any]:
        """Of a prompt that is echoed, as many likely tokens each as for the text."""
        tops = [top[: self._n] for top in scored.top_tokens]
        return self.of(prompt, scored.logprobs, tops, 0)

    def _likeliest(self, token: int, logprob: float, top: Sequence[Token]) -> dict[str, float]:
        """The likeliest tokens, and the one that was drawn, which may be none of them."""
        named = {self._name(one.id): rounded(one.logprob) for one in top}
        return named | {self._name(token): rounded(logprob)}

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self._as_ids else self._tokenizer.text_of(token)


def prompt_logprobs(
    prompt: Sequence[int], scored: PromptLogprobs, n: int, tokenizer: Tokenizer
) -> list[dict[str, Any] | None]:
    """What vLLM calls so: for each token of the prompt the `n` likeliest and itself, by id."""
    told: list[dict[str, Any] | None] = []
    for token, logprob, top in zip(prompt, scored.logprobs, scored.top_tokens, strict=True):
        if logprob is None:
            told.append(None)
            continue
        ranked: dict[int, tuple[int | None, float]] = {
            one.id: (rank, one.logprob) for rank, one in enumerate(top[:n], 1)
        }
        ranked.setdefault(token, (None, logprob))
        told.append(
            {
                str(i): {
                    "logprob": rounded(of),
                    "rank": rank,
                    "decoded_token": tokenizer.text_of(i),
                }
                for i, (rank, of) in ranked.items()
            }
        )
    return told
