"""Beam search over the most likely completions. Pure: the caller runs the network.

A candidate is a live hypothesis and one more token. The best candidates that may continue are the
next live hypotheses; a candidate that may end is a finished one, and the best of those are kept.
Ties go to the earlier hypothesis, then to the smaller token id. The search is over when no live
hypothesis can lead to a finished one that is better than the worst of those that will be returned.

All hypotheses are branches of one tree. Their common prefix is certain and is removed from it.

Score: the sum of the tokens' logprobs / length ** length_penalty, the tokens of a stop string
included, as in Hugging Face Transformers and vLLM. A completion has at least one token, unless its
constraint allows none.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from service.constraints.constraint import START, Constraint
from service.errors import GenerationFailed
from service.generation.request import Chunk, Finish, FinishReason, GenerationRequest, Token
from service.generation.scheduler import NOT_FINITE
from service.generation.softmax import logsumexp
from service.generation.stopping import StopMatcher, TokenWithTop, chunk_of, stop_completions
from service.generation.token_texts import CHARACTERS, TextRules
from service.models.spec import FloatArray

RealArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BeamParams:
    """Parameters of a beam search: its width, and how many completions it returns."""

    width: int
    n: int = 1  # at most `width`
    length_penalty: float = 1.0

    def score(self, total: float, length: int) -> float:
        """Return the score of a hypothesis by the sum of its logprobs and its length."""
        weight: float = float(length) ** self.length_penalty
        return total / weight


@dataclass(slots=True, eq=False)
class _Node:
    """A token in the tree, and its continuations."""

    token: Token
    top: Sequence[Token]
    parent: "_Node | None"
    branches: list["_Node"] = field(default_factory=list)
    n_ends: int = 0  # hypotheses, live or finished, that end with it

    def path(self) -> list[TokenWithTop]:
        """Return the tokens from below the root to this one."""
        node, found = self, list[TokenWithTop]()
        while node.parent is not None:
            found.append((node.token, node.top))
            node = node.parent
        return found[::-1]


@dataclass(frozen=True, slots=True)
class _Live:
    """A hypothesis that continues; all of them have the same length."""

    node: _Node
    total: float  # sum of its logprobs
    stops: StopMatcher | None
    state: int  # of its constraint


@dataclass(frozen=True, slots=True)
class _Finished:
    """A finished hypothesis, the tokens of a stop string included."""

    node: _Node
    score: float
    reason: FinishReason
    length: int
    stop: str | None = None
    hidden: int = 0  # tokens at its end that belong to the stop string, the first maybe in part
    partial: bytes = b""  # the text before the stop string, of the first hidden token


class BeamSearchState:
    """The state of one search. The caller computes `rows` rows a step until it `is_over`."""

    def __init__(
        self,
        request: GenerationRequest,
        params: BeamParams,
        texts: Sequence[str],
        suppressed_ids: Sequence[int] = (),
        rules: TextRules = CHARACTERS,
    ) -> None:
        """`texts` is the text of every token, as `rules` say.

        Of the request only its end conditions are used.
        """
        assert 1 <= params.n <= params.width
        assert request.max_new_tokens >= 1
        self._request, self._params = request, params
        self._suppressed_ids, self._token_texts = list(suppressed_ids), texts
        self._rules, self._end_ids = rules, [] if request.ignore_eos else list(rules.end_ids)
        self._masked_ids = list(rules.end_ids)  # before `min_new_tokens`
        self._stops = dict(zip(rules.stops(request.stop), request.stop, strict=True))
        self._stop_ids = list(request.stop_token_ids)
        stops_in_texts = tuple(self._stops)
        self._completions = stop_completions(stops_in_texts, texts)
        self._first_completions = self._completions  # of the first token
        if request.is_start and request.stop:
            first_texts = [text.removeprefix(rules.joiner) for text in texts]
            self._first_completions = stop_completions(stops_in_texts, first_texts)
        self._root = _Node(Token(-1, 0.0), (), None)
        self._certain: list[TokenWithTop] = []  # removed from the tree, and not taken yet
        self._n_certain = 0
        self.length = 0  # of every live hypothesis
        self._finished: list[_Finished] = []  # the best first
        self._live: list[_Live] = []  # the most likely first
        constraint = request.constraint
        if constraint is not None and constraint.is_over(START, request.max_new_tokens):
            self._finished.append(_Finished(self._root, 0.0, FinishReason.EOS_TOKEN, 0))
        else:
            least = request.min_new_tokens
            has_stop = bool(request.stop or request.stop_token_ids)
            stops = StopMatcher(stops_in_texts, least) if has_stop else None
            self._live.append(_Live(self._root, 0.0, stops, START))
        self._root.n_ends = 1

    @property
    def rows(self) -> int:
        """How many hypotheses are live."""
        return len(self._live)

    @property
    def is_over(self) -> bool:
        """Whether no live hypothesis can change the result."""
        return not self._live

    def advance(self, logits: FloatArray) -> tuple[list[int], list[int]]:
        """Take one step with the logits after each live hypothesis, (rows, vocabulary).

        Returns the new live hypotheses, the most likely first: the row that each continues, and
        its token. Raises GenerationFailed if a row's logits are not finite, or no token is allowed.
        """
        totals = logsumexp(logits)
        if np.isnan(totals).any():
            raise GenerationFailed(NOT_FINITE)
        logprobs = logits - totals[:, None]  # (rows, vocabulary)
        sums = logprobs + np.array([live.total for live in self._live])[:, None]
        sums[:, self._suppressed_ids] = -np.inf
        if self.length < self._request.min_new_tokens:
            sums[:, self._masked_ids] = -np.inf
        may_end, may_continue = self._kinds(sums)
        ended = most_likely(np.where(may_end, sums, -np.inf), self._params.n)
        continuing = most_likely(np.where(may_continue, sums, -np.inf), self._params.width)
        before, self._live = self._live, []
        self.length += 1
        expansion = _Expansion(before, sums, logprobs, self._request.top_tokens)
        for index in ended:
            self._end(expansion, index)
        chosen = [index for index in continuing if self._may_win(float(sums.flat[index]))]
        self._live = [self._extend(expansion, index) for index in chosen]
        for live in before:
            _prune(live.node)
        if not self._live and not self._finished:
            raise GenerationFailed(NOT_FINITE)
        self._settle()
        vocabulary = logits.shape[1]
        return [index // vocabulary for index in chosen], [index % vocabulary for index in chosen]

    def end_here(self) -> None:
        """End every live hypothesis now, unless there are `n` better finished ones."""
        for live in self._live:
            if len(self._finished) < self._params.n:
                live.node.n_ends += 1
                score = self._params.score(live.total, self.length) if self.length else 0.0
                self._finished.append(_Finished(live.node, score, FinishReason.LENGTH, self.length))
            _prune(live.node)
        self._live = []

    def take_certain(self) -> Chunk:
        """The common prefix of all hypotheses that may be returned, as far as it was not taken."""
        taken, self._certain = self._certain, []
        return chunk_of(taken, self._request, None, [token.id for token, _ in taken])

    def completions(self) -> list[Chunk]:
        """The rest of each completion after the tokens that were taken, the best first.

        Called when the search is over. There may be fewer than `n`: a constraint may allow no more.
        """
        return [self._rest(text) for text in self._finished]

    # -- candidates

    def _kinds(self, sums: RealArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which candidates may end and which may continue, (rows, vocabulary) each.

        The sums of those that a constraint forbids become -inf.
        """
        remaining = self._request.max_new_tokens - self.length
        may_end = np.full(sums.shape, remaining == 1)
        may_continue = np.full(sums.shape, remaining > 1)
        may_end[:, self._end_ids] = True
        may_continue[:, self._end_ids] = False
        constraint = self._request.constraint
        completions = self._completions if self.length else self._first_completions
        for row, live in enumerate(self._live):
            if constraint is not None:
                sums[row, ~constraint.allowed(live.state, remaining)] = -np.inf
                is_complete, is_last = constraint.endings(live.state, remaining)
                may_end[row] |= is_complete
                may_continue[row] &= ~is_last
            if live.stops is not None and live.stops.n_exempt <= 0:
                held = live.stops.held
                for stopping in (
                    *(ids for head, ids in completions.items() if held.endswith(head)),
                    self._stop_ids,
                ):
                    may_end[row, stopping] = True
                    may_continue[row, stopping] = False
        return may_end, may_continue

    def _extend(self, expansion: "_Expansion", index: int) -> _Live:
        node, live = expansion.branch(index)
        node.n_ends += 1
        stops = None
        if live.stops is not None:
            stops = live.stops.fork()
            stops.push(self._text(node, self.length))
        return _Live(
            node,
            float(expansion.sums.flat[index]),
            stops,
            _state_after(self._request.constraint, live, node),
        )

    def _end(self, expansion: "_Expansion", index: int) -> None:
        """Keep a finished hypothesis if it is one of the best."""
        score = self._params.score(float(expansion.sums.flat[index]), self.length)
        rank = bisect_right(self._finished, -score, key=lambda text: -text.score)
        if rank == self._params.n:
            return
        node, live = expansion.branch(index)
        node.n_ends += 1
        stop, hidden, partial = self._stop(live, node)
        reason = FinishReason.STOP_SEQUENCE
        if stop is None:
            reason = self._reason(node, _state_after(self._request.constraint, live, node))
        finished = _Finished(node, score, reason, self.length, stop, hidden, partial)
        self._finished.insert(rank, finished)
        for text in self._finished[self._params.n :]:
            _prune(text.node)
        del self._finished[self._params.n :]

    def _stop(self, live: _Live, node: _Node) -> tuple[str | None, int, bytes]:
        """The stop string that a token completes, how many tokens it hides, and the text before."""
        if live.stops is None:
            return None, 0, b""
        text, is_exempt = self._text(node, self.length), live.stops.n_exempt > 0
        if node.token.id in self._stop_ids and not is_exempt:
            return self._rules.encoded(text).decode("utf-8", "replace"), 1, b""
        free, stop = live.stops.fork().push(text)
        if stop is None:
            return None, 0, b""
        hidden, n_before = self._cover(node, self.length, len(live.stops.held) + len(text) - free)
        first, depth = node, self.length
        for _ in range(hidden - 1):
            assert first.parent is not None
            first, depth = first.parent, depth - 1
        return self._stops[stop], hidden, self._rules.encoded(self._text(first, depth)[:n_before])

    def _cover(self, node: _Node, depth: int, n_characters: int) -> tuple[int, int]:
        """How many tokens up to a node have these last characters, and what is before them."""
        n_tokens, found = 0, 0
        while found < n_characters and node.parent is not None:
            found += len(self._text(node, depth))
            node, n_tokens, depth = node.parent, n_tokens + 1, depth - 1
        return n_tokens, found - n_characters

    def _text(self, node: _Node, depth: int) -> str:
        """The text of a node's token, which is number `depth` of its completion, from 1."""
        text = self._token_texts[node.token.id]
        is_first = depth == 1 and self._request.is_start
        return text.removeprefix(self._rules.joiner) if is_first else text

    def _reason(self, node: _Node, state: int) -> FinishReason:
        """The finish reason without a stop string."""
        if node.token.id in self._end_ids:
            return FinishReason.EOS_TOKEN
        constraint, remaining = self._request.constraint, self._request.max_new_tokens - self.length
        if constraint is None or (not remaining and not constraint.is_over(state, 0)):
            return FinishReason.LENGTH
        return FinishReason.EOS_TOKEN

    # -- scores

    def _may_win(self, total: float) -> bool:
        """Whether a live hypothesis may lead to a better one than the worst that would be returned.

        Its total only falls, so its best score has the greatest length if the length penalty
        rewards length, else the least.
        """
        if len(self._finished) < self._params.n:
            return True
        is_long_better = self._params.length_penalty > 0
        best_length = self._request.max_new_tokens if is_long_better else self.length + 1
        return self._params.score(total, best_length) > self._finished[-1].score

    # -- the tree

    def _settle(self) -> None:
        """Remove the common prefix of all hypotheses, as far as they show it, from the tree.

        The last token of a hypothesis stays, for the chunk with its end.
        """
        shown = [
            self.length - self._cover(live.node, self.length, len(live.stops.held))[0]
            if live.stops
            else self.length
            for live in self._live
        ]
        shown += [text.length - (text.hidden or 1) for text in self._finished]
        limit, root = min(shown), self._root
        while self._n_certain < limit and not root.n_ends and len(root.branches) == 1:
            (root,) = root.branches
            root.parent = None
            self._certain.append((root.token, root.top))
            self._n_certain += 1
        self._root = root

    def _rest(self, text: _Finished) -> Chunk:
        tokens = [*self._certain, *text.node.path()]
        stop_token = text.node.token if text.hidden else None
        finish = Finish(text.reason, text.length, stop_token, text.stop, text.partial)
        shown = tokens[: len(tokens) - text.hidden]
        return chunk_of(shown, self._request, finish, [token.id for token, _ in tokens])


def _state_after(constraint: Constraint | None, live: _Live, node: _Node) -> int:
    return START if constraint is None else constraint.state_after([node.token.id], live.state)


class _Expansion:
    """One step of the tree: the nodes of the chosen candidates, each made once."""

    def __init__(
        self, before: Sequence[_Live], sums: RealArray, logprobs: RealArray, top_tokens: int
    ) -> None:
        self.sums = sums  # (rows, vocabulary)
        self._before, self._logprobs, self._top_tokens = before, logprobs, top_tokens
        self._nodes: dict[int, _Node] = {}
        self._tops: dict[int, Sequence[Token]] = {}

    def branch(self, index: int) -> tuple[_Node, _Live]:
        """The node of the candidate at an index of `sums.flat`, and the hypothesis it continues."""
        row, token = divmod(index, self.sums.shape[1])
        live = self._before[row]
        node = self._nodes.get(index)
        if node is None:
            logprob = float(self._logprobs[row, token])
            node = _Node(Token(token, logprob), self._top(row), live.node)
            live.node.branches.append(node)
            self._nodes[index] = node
        return node, live

    def _top(self, row: int) -> Sequence[Token]:
        if not self._top_tokens:
            return ()
        if row not in self._tops:
            logprobs = self._logprobs[row]
            top = most_likely(logprobs, self._top_tokens)
            self._tops[row] = [Token(i, float(logprobs[i])) for i in top]
        return self._tops[row]


def _prune(node: _Node) -> None:
    """Remove a hypothesis that ends at a node, and the nodes that no other one has."""
    node.n_ends -= 1
    while node.parent is not None and not node.n_ends and not node.branches:
        node.parent.branches.remove(node)
        node = node.parent


def most_likely(values: RealArray, n: int) -> list[int]:
    """Indices in `values.flat` of the `n` largest, in order; ties go to the first. Skips -inf."""
    flat = values.ravel()
    chosen = np.flatnonzero(flat > -np.inf)
    if len(chosen) > n:
        least = np.partition(flat[chosen], -n)[-n]
        chosen = chosen[flat[chosen] >= least]
    order = np.argsort(-flat[chosen], kind="stable")[:n]
    indices: list[int] = chosen[order].tolist()
    return indices
