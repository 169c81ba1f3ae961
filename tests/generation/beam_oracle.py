"""Beam search by its definition: every hypothesis is computed from the prompt, none is pruned."""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from service.generation.request import FinishReason
from service.models.step import StepProgram

BEYOND = 3
"""Characters after the limit that are tried to decide whether a text could continue."""

Network = Callable[[tuple[int, ...]], np.ndarray]  # tokens → the logits after them


@dataclass(frozen=True)
class Rules:
    texts: str  # one character a token
    longest: int
    width: int
    n: int
    penalty: float
    stops: tuple[str, ...] = ()
    pattern: str | None = None
    never: tuple[int, ...] = ()


@dataclass(frozen=True)
class Found:
    sampled: tuple[int, ...]
    shown: tuple[int, ...]
    logprobs: tuple[float, ...]  # of what is sampled
    reason: FinishReason


def reread(program: StepProgram) -> Network:
    def network(tokens: tuple[int, ...]) -> np.ndarray:
        batch = program.new_batch(1)
        for token in tokens:
            batch.tokens[0] = token
            program.step(batch, 1)
        return batch.logits[0]

    return network


def logprobs_of(logits: np.ndarray) -> np.ndarray:
    x = np.asarray(logits, np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


@cache
def language(pattern: str, texts: str, longest: int) -> frozenset[str]:
    every = ("".join(one) for n in range(longest + 1) for one in itertools.product(texts, repeat=n))
    return frozenset(text for text in every if re.fullmatch(pattern, text))


@cache
def beginnings(pattern: str, texts: str, longest: int) -> frozenset[str]:
    """The proper prefixes of the texts within the limit."""
    return frozenset(
        text[:n] for text in language(pattern, texts, longest) for n in range(len(text))
    )


def oracle(network: Network, prompt: Sequence[int], rules: Rules) -> list[Found]:
    judge = Judge(rules)
    if judge.is_text(()) and not judge.may_grow((), rules.longest):
        return [judge.found((), ())]
    live: list[Candidate] = [((), ())]
    ended: list[Candidate] = []
    while live:
        candidates = []
        for tokens, logprobs in live:
            row = logprobs_of(network((*prompt, *tokens)))
            candidates += [
                ((*tokens, token), (*logprobs, float(row[token])))
                for token in range(len(rules.texts))
                if token not in rules.never
            ]
        candidates = [c for c in candidates if judge.is_allowed(c[0])]
        candidates.sort(key=lambda c: -sum(c[1]))
        ended += [c for c in candidates if judge.is_stopped(c[0]) or judge.is_text(c[0])]
        live = [c for c in candidates if judge.goes_on(c[0])][: rules.width]
    ended.sort(key=lambda c: -(sum(c[1]) / len(c[0]) ** rules.penalty))
    return [judge.found(*one) for one in ended[: rules.n]]


Candidate = tuple[tuple[int, ...], tuple[float, ...]]  # tokens and their logprobs


class Judge:
    """The rules of what a completion is."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def is_text(self, tokens: tuple[int, ...]) -> bool:
        rules = self._rules
        if rules.pattern is None:
            return len(tokens) == rules.longest
        return self._said(tokens) in language(rules.pattern, rules.texts, rules.longest)

    def may_grow(self, tokens: tuple[int, ...], limit: int) -> bool:
        rules = self._rules
        if rules.pattern is None:
            return len(tokens) < limit
        return self._said(tokens) in beginnings(rules.pattern, rules.texts, limit)

    def is_allowed(self, tokens: tuple[int, ...]) -> bool:
        return self.is_text(tokens) or self.may_grow(tokens, self._rules.longest)

    def is_stopped(self, tokens: tuple[int, ...]) -> bool:
        return any(self._said(tokens).endswith(stop) for stop in self._rules.stops)

    def goes_on(self, tokens: tuple[int, ...]) -> bool:
        return not self.is_stopped(tokens) and self.may_grow(tokens, self._rules.longest)

    def found(self, tokens: tuple[int, ...], logprobs: tuple[float, ...]) -> Found:
        rules, said = self._rules, self._said(tokens)
        if self.is_stopped(tokens):
            hidden = max(len(stop) for stop in rules.stops if said.endswith(stop))
            shown = tokens[: len(tokens) - hidden]
            return Found(tokens, shown, logprobs, FinishReason.STOP_SEQUENCE)
        limit = rules.longest
        is_cut = len(tokens) == limit and self.may_grow(tokens, limit + BEYOND)
        reason = FinishReason.LENGTH if is_cut else FinishReason.EOS_TOKEN
        return Found(tokens, tokens, logprobs, reason)

    def _said(self, tokens: tuple[int, ...]) -> str:
        return "".join(self._rules.texts[token] for token in tokens)
