"""A row of the slot table: one generation, how far it is, and what it holds back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy.typing as npt

from service.generation.plan import Key, Progress, SavedRow
from service.generation.request import Finish, FinishReason, GenerationRequest, Token
from service.generation.stopping import HeldTokens, TokenWithTop, chunk_of
from service.generation.token_texts import TextRules
from service.models.step import State


@dataclass(slots=True)
class TableRow:
    """One generation that is in the table, or was preempted and waits to get a row again."""

    key: Key
    request: GenerationRequest
    held: HeldTokens | None  # with a stop string or a deadline
    may_end_early: bool  # before its `max_new_tokens`
    fed: int = 1  # prompt tokens that the network has consumed or gets in the next step
    generated: int = 0
    counted: int = 0  # of those that `count` has returned, and of the forced ones
    is_over: bool = False
    is_complete: bool = False  # by an end token, or because its constraint allows no further token
    latest: list[TokenWithTop] = field(default_factory=list)  # held for a deadline, older than held
    state: State | None = None  # the latest that may be returned
    turn: int = 0  # the latest burst of a part of an owner's rows in which it was
    slice_start: int = 0  # `steps` when it got its row
    saved: SavedRow | None = None  # while it is preempted
    is_paused: bool = False  # while it is preempted: it waits for no row until it is resumed

    @classmethod
    def of(
        cls, key: Key, request: GenerationRequest, texts: Sequence[str], rules: TextRules
    ) -> Self:
        """Return the row of a generation that begins."""
        held, stops = None, bool(request.stop or request.stop_token_ids)
        if stops or request.deadline_s is not None:
            held = HeldTokens(request, texts, rules, request.stop_context)
        has_end = bool(rules.end_ids) and not request.ignore_eos
        may_end_early = stops or has_end or request.constraint is not None
        return cls(key, request, held, may_end_early, state=request.initial_state)

    @property
    def owner(self) -> str:
        """The owner of the generation."""
        return self.request.owner

    @property
    def steps(self) -> int:
        """The steps that it has taken."""
        return self.fed + self.generated - 1

    @property
    def slice_steps(self) -> int:
        """The steps since it got its row."""
        return self.steps - self.slice_start

    @property
    def consumed(self) -> int:
        """The position of the row's state, which has not consumed the last token."""
        initial = self.request.initial_state
        return (initial.position if initial else 0) + self.fed + self.generated - 1

    @property
    def prompt_remaining(self) -> int:
        """The prompt tokens that the network does not get in the next step."""
        return len(self.request.prompt) - self.fed

    @property
    def steps_left(self) -> int:
        """The steps to its limit."""
        return self.prompt_remaining + self.request.max_new_tokens - self.generated

    def needs_snapshot_after(self, steps: int, every: int) -> bool:
        """Whether to copy the state: at the end, at a possible end, and `every` so many tokens."""
        if not self.request.return_state:
            return False
        is_possible_end = self.may_end_early and steps > self.prompt_remaining
        is_end = steps == self.steps_left or is_possible_end
        return is_end or (self.consumed + steps) // every > self.consumed // every

    @property
    def end(self) -> FinishReason | None:
        """The reason of its end, if it has ended otherwise than by a stop string."""
        if self.is_complete:
            return FinishReason.EOS_TOKEN
        return FinishReason.LENGTH if self.generated == self.request.max_new_tokens else None

    @property
    def steps_to_first_token(self) -> int:
        """Steps until the first token is generated; after it the number of generated tokens.

        Of a text that is read as a whole they are the steps to its end.
        """
        if self.request.is_whole:
            return max(1, self.steps_left)
        return self.generated or self.prompt_remaining + 1

    def count(self) -> int:
        """Return how many tokens were sampled since the last call; a forced one was not."""
        n = max(self.counted, min(self.generated, len(self.request.forced_tokens)))
        self.counted = self.generated
        return self.generated - n

    def settle(
        self,
        tokens: list[int],
        logprobs: list[float],
        top: Sequence[Sequence[Token]],
        arrays: tuple[npt.NDArray[Any], ...] | None,
        failure: str | None,
    ) -> Progress:
        """Return the progress of a generation with a stop string or a deadline.

        A stop string holds back the tokens that may belong to it. A deadline holds back the latest
        token, so that the end comes with a token, as every other end does.
        """
        held, shown = self.held, self.latest
        assert held is not None
        finish, n_before = None, self.generated
        for k, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            self.generated += 1
            top_tokens = top[k] if top else ()
            shown += held.push(Token(token, logprob), top_tokens)
            if held.stop is not None:
                finish = held.finish(self.generated)
                break
        self.latest = []
        sampled = tokens[: self.generated - n_before]
        if arrays is not None and len(sampled) == len(tokens):
            self.state = State(self.consumed, arrays)
        if finish is None and (failure or self.end is not None):
            shown += self.take_all()
            finish = None if failure or self.end is None else Finish(self.end, self.generated)
        elif finish is None and self.request.deadline_s is not None:
            shown, self.latest = shown[:-1], shown[-1:]
        chunk = chunk_of(shown, self.request, finish, sampled, self.state)
        return Progress(self.key, chunk, failure if finish is None else None)

    def take_all(self) -> list[TokenWithTop]:
        """Return all tokens that it holds back."""
        shown = self.latest + (self.held.release() if self.held else [])
        self.latest = []
        return shown
