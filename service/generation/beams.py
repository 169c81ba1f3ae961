"""Beam search: the likeliest texts that a few at a time can find. Pure: it is told the logits.

A candidate is a live text and one more token. The best candidates that may go on live on; every
candidate that may end is a text, and the best of those are kept. Of equals the earlier text is the
better one, then the smaller token id. The search is over when no live text can lead to one that is
better than the worst of those that are to be told.

All texts are branches of one tree. What they share is certain, and leaves the tree.

Score of a text: the sum of its tokens' logprobs / length ** length_penalty, those of a stop string
counted, as Hugging Face Transformers and vLLM have it. A text has a token at least, unless its
constraint lets none follow.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from service.constraints.constraint import START
from service.errors import GenerationFailed
from service.generation.request import Chunk, Finish, FinishReason, GenerationRequest, Token
from service.generation.sampling import logsumexp
from service.generation.scheduler import NOT_FINITE
from service.generation.stopping import StopMatcher
from service.models.spec import FloatArray

RealArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BeamParams:
    """How likely texts are looked for: `width` at a time, of which the `n` best are told."""

    width: int
    n: int = 1  # at most `width`
    length_penalty: float = 1.0


@dataclass(slots=True, eq=False)
class _Node:
    """A token in the tree, and whatever goes on from it."""

    token: Token
    top: Sequence[Token]
    parent: "_Node | None"
    branches: list["_Node"] = field(default_factory=list)
    texts: int = 0  # that have it for their last token


@dataclass(frozen=True, slots=True)
class _Live:
    """A text that goes on; all of them have the same length."""

    node: _Node
    total: float  # of its logprobs
    stops: StopMatcher | None
    state: int  # its constraint's


@dataclass(frozen=True, slots=True)
class _Text:
    """A text that has ended, with all tokens that were drawn for it."""

    node: _Node
    score: float
    reason: FinishReason
    length: int
    stop: str | None = None

    @property
    def hidden(self) -> int:
        """How many tokens at its end are the stop string."""
        return len(self.stop or "")


@dataclass(slots=True)
class _Columns:
    """Tokens in order, as a chunk has them."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[Sequence[Token]] = field(default_factory=list)

    def add(self, node: _Node) -> None:
        self.tokens.append(node.token.id)
        self.logprobs.append(node.token.logprob)
        self.tops.append(node.top)


class BeamSearchState:
    """One search. Whoever drives it feeds `rows` texts a step, until it `is_over`."""

    def __init__(
        self,
        request: GenerationRequest,
        params: BeamParams,
        texts: Sequence[str],
        suppressed_ids: Sequence[int] = (),
    ) -> None:
        """`texts` is the text of every token. Nothing but the request's end is asked about."""
        assert 1 <= params.n <= params.width
        assert request.max_new_tokens >= 1
        self._request, self._params = request, params
        self._suppressed_ids, self._token_texts = list(suppressed_ids), texts
        ids = {text: i for i, text in enumerate(texts)} if request.stop else {}
        self._ends = [(ids[stop[-1]], stop[:-1]) for stop in request.stop if stop[-1] in ids]
        self._root = _Node(Token(-1, 0.0), (), None)
        self._certain = _Columns()  # what has left the tree and was not taken
        self._n_certain = 0
        self.length = 0  # of every live text
        self._texts: list[_Text] = []  # the best first
        self._live: list[_Live] = []  # the likeliest first
        constraint = request.constraint
        if constraint is not None and constraint.is_over(START, request.max_new_tokens):
            self._texts.append(_Text(self._root, 0.0, FinishReason.EOS_TOKEN, 0))
        else:
            least = request.min_new_tokens
            stops = StopMatcher(request.stop, least) if request.stop else None
            self._live.append(_Live(self._root, 0.0, stops, START))
        self._root.texts = 1

    @property
    def rows(self) -> int:
        """How many texts are live."""
        return len(self._live)

    @property
    def is_over(self) -> bool:
        """Whether no text lives that could still matter."""
        return not self._live

    def advance(self, logits: FloatArray) -> tuple[list[int], list[int]]:
        """Take in the logits after each live text, (rows, vocabulary).

        Returns the live texts from now on, the likeliest first: which row each goes on from, and
        with which token.

        Raises:
            Generation: a row's logits are not finite numbers, or nothing can follow any text.

        """
        totals = logsumexp(logits)
        if np.isnan(totals).any():
            raise GenerationFailed(NOT_FINITE)
        logprobs = logits - totals[:, None]  # (rows, vocabulary)
        sums = logprobs + np.array([live.total for live in self._live])[:, None]
        sums[:, self._suppressed_ids] = -np.inf
        may_end, may_go_on = self._kinds(sums)
        ended = most_likely(np.where(may_end, sums, -np.inf), self._params.n)
        going_on = most_likely(np.where(may_go_on, sums, -np.inf), self._params.width)
        before, self._live = self._live, []
        self.length += 1
        growth = _Growth(before, sums, logprobs, self._request.top_tokens)
        for place in ended:
            self._end(growth, place)
        chosen = [place for place in going_on if self._may_win(float(sums.flat[place]))]
        self._live = [self._go_on(growth, place) for place in chosen]
        for live in before:
            _let_go(live.node)
        if not self._live and not self._texts:
            raise GenerationFailed(NOT_FINITE)
        self._settle()
        vocabulary = logits.shape[1]
        return [place // vocabulary for place in chosen], [place % vocabulary for place in chosen]

    def end_here(self) -> None:
        """End every live text as it stands, where there are no better ones that have ended."""
        for live in self._live:
            if len(self._texts) < self._params.n:
                live.node.texts += 1
                score = self._score(live.total, self.length) if self.length else 0.0
                self._texts.append(_Text(live.node, score, FinishReason.LENGTH, self.length))
            _let_go(live.node)
        self._live = []

    def take_certain(self) -> Chunk:
        """What every text that may still be told begins with, as far as it was not taken."""
        taken, self._certain = self._certain, _Columns()
        return self._chunk(taken, len(taken.tokens), None)

    def texts(self) -> list[Chunk]:
        """When it is over: what was not taken of each text that is told, the best first.

        There may be fewer than were asked for: a constraint may have no more.
        """
        return [self._rest(text) for text in self._texts]

    # -- candidates

    def _kinds(self, sums: RealArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which candidates may end a text and which may go on, (rows, vocabulary) each.

        Those that a constraint does not allow lose their sum.
        """
        remaining = self._request.max_new_tokens - self.length
        may_end = np.full(sums.shape, remaining == 1)
        may_go_on = np.full(sums.shape, remaining > 1)
        constraint = self._request.constraint
        for row, live in enumerate(self._live):
            if constraint is not None:
                sums[row, ~constraint.allowed(live.state, remaining)] = -np.inf
                is_complete, is_last = constraint.endings(live.state, remaining)
                may_end[row] |= is_complete
                may_go_on[row] &= ~is_last
            if live.stops is not None and not live.stops.is_inactive:
                held = live.stops.held
                stopping = [token for token, head in self._ends if held.endswith(head)]
                may_end[row, stopping] = True
                may_go_on[row, stopping] = False
        return may_end, may_go_on

    def _go_on(self, growth: "_Growth", place: int) -> _Live:
        node, live = growth.branch(place)
        node.texts += 1
        stops = None
        if live.stops is not None:
            stops = live.stops.fork()
            stops.push(self._token_texts[node.token.id])
        return _Live(node, float(growth.sums.flat[place]), stops, self._state_after(live, node))

    def _end(self, growth: "_Growth", place: int) -> None:
        """Keep a text that has ended, if it is one of the best."""
        score = self._score(float(growth.sums.flat[place]), self.length)
        rank = bisect_right(self._texts, -score, key=lambda text: -text.score)
        if rank == self._params.n:
            return
        node, live = growth.branch(place)
        node.texts += 1
        stop, reason = self._stop(live, node), FinishReason.STOP_SEQUENCE
        if stop is None:
            reason = self._reason(self._state_after(live, node))
        self._texts.insert(rank, _Text(node, score, reason, self.length, stop))
        for text in self._texts[self._params.n :]:
            _let_go(text.node)
        del self._texts[self._params.n :]

    def _stop(self, live: _Live, node: _Node) -> str | None:
        """The stop string at the end of a live text and one more token."""
        if live.stops is None:
            return None
        _, stop = live.stops.fork().push(self._token_texts[node.token.id])
        return stop

    def _reason(self, state: int) -> FinishReason:
        """Why a text has ended, if it was no stop string."""
        constraint, remaining = self._request.constraint, self._request.max_new_tokens - self.length
        if constraint is None or (not remaining and not constraint.is_over(state, 0)):
            return FinishReason.LENGTH
        return FinishReason.EOS_TOKEN

    def _state_after(self, live: _Live, node: _Node) -> int:
        constraint = self._request.constraint
        return START if constraint is None else constraint.state_after([node.token.id], live.state)

    # -- scores

    def _score(self, total: float, length: int) -> float:
        weight: float = float(length) ** self._params.length_penalty
        return total / weight

    def _may_win(self, total: float) -> bool:
        """Whether a live text may lead to one that is better than the worst that would be told.

        Its total only falls. Where length is rewarded, it has most of it at the limit, else least
        of it with the next token.
        """
        if len(self._texts) < self._params.n:
            return True
        is_long_better = self._params.length_penalty > 0
        best_length = self._request.max_new_tokens if is_long_better else self.length + 1
        return self._score(total, best_length) > self._texts[-1].score

    # -- the tree

    def _settle(self) -> None:
        """Take out of the tree what all texts share and show.

        A text's last token stays, for the chunk that brings its end.
        """
        shown = [self.length - (len(live.stops.held) if live.stops else 0) for live in self._live]
        shown += [text.length - (text.hidden or 1) for text in self._texts]
        limit, root = min(shown), self._root
        while self._n_certain < limit and not root.texts and len(root.branches) == 1:
            (root,) = root.branches
            root.parent = None
            self._certain.add(root)
            self._n_certain += 1
        self._root = root

    def _rest(self, text: _Text) -> Chunk:
        path, node = [], text.node
        while node.parent is not None:
            path.append(node)
            node = node.parent
        certain = self._certain
        columns = _Columns([*certain.tokens], [*certain.logprobs], [*certain.tops])
        for node in reversed(path):
            columns.add(node)
        stop_token = text.node.token if text.hidden else None
        finish = Finish(text.reason, text.length, stop_token, text.stop)
        return self._chunk(columns, len(columns.tokens) - text.hidden, finish)

    def _chunk(self, columns: _Columns, shown: int, finish: Finish | None) -> Chunk:
        return Chunk(
            columns.tokens[:shown],
            columns.logprobs[:shown],
            columns.tops[:shown] if self._request.top_tokens else (),
            finish,
            columns.tokens,
        )


class _Growth:
    """A step of the tree: the branches that candidates have grown, each once."""

    def __init__(
        self, before: Sequence[_Live], sums: RealArray, logprobs: RealArray, top_tokens: int
    ) -> None:
        self.sums = sums  # (rows, vocabulary)
        self._before, self._logprobs, self._top_tokens = before, logprobs, top_tokens
        self._nodes: dict[int, _Node] = {}
        self._tops: dict[int, Sequence[Token]] = {}

    def branch(self, place: int) -> tuple[_Node, _Live]:
        """The branch of the candidate at a place of `sums.flat`, and what it grows from."""
        row, token = divmod(place, self.sums.shape[1])
        live = self._before[row]
        node = self._nodes.get(place)
        if node is None:
            logprob = float(self._logprobs[row, token])
            node = _Node(Token(token, logprob), self._top(row), live.node)
            live.node.branches.append(node)
            self._nodes[place] = node
        return node, live

    def _top(self, row: int) -> Sequence[Token]:
        if not self._top_tokens:
            return ()
        if row not in self._tops:
            logprobs = self._logprobs[row]
            places = most_likely(logprobs, self._top_tokens)
            self._tops[row] = [Token(i, float(logprobs[i])) for i in places]
        return self._tops[row]


def _let_go(node: _Node) -> None:
    """Let a text leave its last token, and the tree lose what nobody has any more."""
    node.texts -= 1
    while node.parent is not None and not node.texts and not node.branches:
        node.parent.branches.remove(node)
        node = node.parent


def most_likely(values: RealArray, n: int) -> list[int]:
    """Places in `values.flat` of the `n` largest, in order; of equals the first. -inf is none."""
    flat = values.ravel()
    chosen = np.flatnonzero(flat > -np.inf)
    if len(chosen) > n:
        least = np.partition(flat[chosen], -n)[-n]
        chosen = chosen[flat[chosen] >= least]
    order = np.argsort(-flat[chosen], kind="stable")[:n]
    places: list[int] = chosen[order].tolist()
    return places
