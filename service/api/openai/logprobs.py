"""OpenAI's `logprobs` and vLLM's `prompt_logprobs` of a choice."""

from collections.abc import Sequence
from typing import Any

from service.api.openai.schemas import CompletionBody
from service.api.sse import rounded
from service.generation.prefill import PromptLogprobs
from service.generation.request import Token
from service.models.tokenizers.tokenizer import Tokenizer


class LogprobsEncoder:
    """Makes the `logprobs` of the choices of one body."""

    def __init__(self, body: CompletionBody, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._as_ids = tokenizer, bool(body.return_tokens_as_token_ids)
        self._n = body.logprobs or 0

    def of_tokens(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[float | None],
        tops: Sequence[Sequence[Token]],
        offset: int,
        texts: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Return the members for tokens whose text begins at the character `offset`.

        `texts` is what each token adds to the text, if that differs from its own text.
        The logprob of a prompt's first token is None.
        """
        offsets = []
        for i, token in enumerate(tokens):
            offsets.append(offset)
            offset += len(self._tokenizer.text_of(token) if texts is None else texts[i])
        rows = zip(tokens, logprobs, tops or [()] * len(tokens), strict=True)
        return {
            "tokens": [self._name(token) for token in tokens],
            "token_logprobs": [None if one is None else rounded(one) for one in logprobs],
            "top_logprobs": [
                None if logprob is None else self._top(token, logprob, top)
                for token, logprob, top in rows
            ],
            "text_offset": offsets,
        }

    def of_prompt(self, prompt: Sequence[int], scores: PromptLogprobs) -> dict[str, Any]:
        """Return the members for an echoed prompt."""
        tops = [top[: self._n] for top in scores.top_tokens]
        return self.of_tokens(prompt, scores.logprobs, tops, 0)

    def _top(self, token: int, logprob: float, top: Sequence[Token]) -> dict[str, float]:
        """Return the most likely tokens and the token itself, which may be another one."""
        named = {self._name(one.id): rounded(one.logprob) for one in top}
        return named | {self._name(token): rounded(logprob)}

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self._as_ids else self._tokenizer.text_of(token)


def prompt_logprobs(
    prompt: Sequence[int], scores: PromptLogprobs, n: int, tokenizer: Tokenizer
) -> list[dict[str, Any] | None]:
    """Return the `n` most likely tokens and the token itself, by id, for each prompt token."""
    found: list[dict[str, Any] | None] = []
    for token, logprob, top in zip(prompt, scores.logprobs, scores.top_tokens, strict=True):
        if logprob is None:
            found.append(None)
            continue
        ranked: dict[int, tuple[int | None, float]] = {
            one.id: (rank, one.logprob) for rank, one in enumerate(top[:n], 1)
        }
        ranked.setdefault(token, (None, logprob))
        found.append(
            {
                str(i): {
                    "logprob": rounded(one),
                    "rank": rank,
                    "decoded_token": tokenizer.text_of(i),
                }
                for i, (rank, one) in ranked.items()
            }
        )
    return found
