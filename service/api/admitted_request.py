"""A generate request that has been admitted, and the state of each of its choices."""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Self

from fastapi import Request
from pydantic import BaseModel

from service.api.choice_decoder import ChoiceDecoder
from service.api.http_request import DisconnectWatch
from service.api.request_stats import RequestStats, note_stats
from service.api.sse import EventIds, SSEResponse
from service.api.state import ServedModel, get_state
from service.errors import CarouselError
from service.generation.completions import CompletionStream, SingleCompletion
from service.generation.request import Chunk, Finish, GenerationRequest, Token
from service.generation.token_texts import completion_text
from service.metrics.families import INTER_DELIVERY
from service.sessions.replay import Replay
from service.sessions.running_turn import RunningTurn
from service.sessions.session import Turn
from service.sessions.turn_record import TurnRecord


class SessionPosition(BaseModel):
    """The position of a session after a turn."""

    id: str
    position: int
    turn: int


def steer_of(record: TurnRecord) -> dict[str, Any]:
    """Return what the reply of a recorded turn has of its steering."""
    return {"steer": record.reply["steer"]} if "steer" in record.reply else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedRequest:
    """The running completions of a request, and what its reply needs.

    Each of `requests` has one prompt and `n` choices; choice index = request index × n + sample
    index.
    """

    model: ServedModel
    requests: Sequence[GenerationRequest]
    completions: CompletionStream
    n: int = 1
    session_id: str | None = None
    turn: Turn | None = None  # of the session
    # both times are monotonic (time.perf_counter)
    arrived_s: float = field(default_factory=time.perf_counter)
    admitted_s: float = field(default_factory=time.perf_counter)

    steer: Mapping[str, Any] = field(default_factory=dict)  # the reply's `steer`, if it has one

    # only for the TGI routes' reply
    echoed_prompt: str = ""  # begins `generated_text`
    prompt_texts: Sequence[str | None] = ()  # of each request, as typed; None: given as ids
    typed_characters: int | None = None  # of the prompt; None: it was not typed in this request
    has_details: bool = False
    # tokens of this turn that earlier connections received, up to Last-Event-ID
    sent_tokens: Sequence[int] = ()
    stats: RequestStats = field(default_factory=RequestStats)

    @classmethod
    def of_turn(
        cls,
        model: ServedModel,
        session_id: str,
        request: GenerationRequest,
        begun: RunningTurn | Replay,
        **reply: Any,
    ) -> Self:
        """Return the generation of a running or a replayed turn."""
        if isinstance(begun, RunningTurn):
            turn = begun.session.turn
            completions = SingleCompletion(begun.stream, begun.stream.cancel)
        else:
            turn, completions = begun.turn, SingleCompletion(begun, begun.cancel)
        return cls(
            model=model,
            requests=[request],
            completions=completions,
            session_id=session_id,
            turn=turn,
            stats=RequestStats(is_replay=isinstance(begun, Replay)),
            **reply,
        )

    @property
    def ids(self) -> EventIds | None:
        """The ids of the events, in a session."""
        turn = self.turn
        return EventIds(f"{turn.epoch}.{turn.number}.", turn.completion_start) if turn else None

    @property
    def prompt_tokens(self) -> int:
        """The number of tokens of all prompts."""
        if self.turn is not None:
            return self.turn.completion_start - self.turn.prompt_start
        return sum(len(request.prompt) for request in self.requests)

    @property
    def prompt_characters(self) -> int:
        """The number of characters of the prompt; of a replay that of its tokens."""
        return self.prompt_tokens if self.typed_characters is None else self.typed_characters

    def prompt(self, index: int) -> Sequence[int]:
        """Return the prompt of a choice: its index is request index × n + sample index."""
        return self.requests[index // self.n].prompt

    def prompt_text(self, index: int) -> str:
        """Return the prompt of a choice: as it was typed, or the text of its ids."""
        i = index // self.n
        typed = self.prompt_texts[i] if self.prompt_texts else None
        if typed is not None:
            return typed
        return self.model.tokenizer.decode(self.requests[i].prompt, is_start=True)

    def prompt_offsets(self, index: int) -> list[int]:
        """Return where in `prompt_text` each token of a choice's prompt begins.

        What lies between two tokens, such as a blank, belongs to the second one.
        """
        tokenizer, prompt, text = self.model.tokenizer, self.prompt(index), self.prompt_text(index)
        if self.prompt_texts and self.prompt_texts[index // self.n] is not None:
            spans = [(start, stop) for _, start, stop in tokenizer.encode_with_offsets(text)]
            spans = [(0, 0)] * (len(prompt) - len(spans)) + spans  # a begin token has no text
            ends = accumulate((stop for _, stop in spans), max, initial=0)
            return [min(start, end) for (start, _), end in zip(spans, ends, strict=False)]
        texts = ChoiceDecoder(tokenizer, is_start=True).texts(prompt)
        return list(accumulate(map(len, texts), initial=0))[:-1]

    def decoder(self, index: int = 0) -> ChoiceDecoder | None:
        """Return the decoder of a choice; None if each token has the same text everywhere."""
        tokenizer, is_start = self.model.tokenizer, self.requests[index // self.n].is_start
        if tokenizer.has_partial_characters or (is_start and tokenizer.joiner):
            return ChoiceDecoder(tokenizer, is_start=is_start)
        return None

    def completion_text(self, tokens: Sequence[int], finish: Finish | None, index: int = 0) -> str:
        """Return the text of the tokens of a choice, and of the part before a stop string."""
        partial = b"" if finish is None else finish.partial
        is_start = self.requests[index // self.n].is_start
        return completion_text(self.model.tokenizer, tokens, partial, is_start=is_start)

    def token_texts(self, choice: "ChoiceState") -> list[str]:
        """Return the text of each token that a choice shows, and of a stop string's last one."""
        tokens, finish = choice.tokens, choice.finish
        decoder = self.decoder(choice.index)
        if decoder is None:
            end = "" if finish is None else finish.partial.decode()
            texts = list(map(self.model.tokenizer.text_of, tokens))
        else:
            texts = decoder.texts(tokens)
            end = "" if finish is None else decoder.end(finish)
        if finish is not None and finish.stop_token is not None:
            return [*texts, end]
        return [*texts[:-1], texts[-1] + end] if texts else []

    def session(self, finish: Finish | None) -> dict[str, Any]:
        """Return the reply's `session` (SessionPosition) when the turn has finished, else {}."""
        if self.turn is None or finish is None:
            return {}
        position = self.turn.completion_start + finish.generated_tokens
        return {"session": {"id": self.session_id, "position": position, "turn": self.turn.number}}

    def choices(self) -> list["ChoiceState"]:
        """Return the states of all choices before their first chunk."""
        stops = [request.stop for request in self.requests for _ in range(self.n)]
        return [ChoiceState(index, stop) for index, stop in enumerate(stops)]

    def stream(
        self, http: Request, events: AsyncGenerator[bytes, None], headers: dict[str, str]
    ) -> SSEResponse:
        """Return the response that sends `events`; its end cancels the completions."""
        self._observe(http)
        state = get_state(http)
        self.stats.gaps = state.metrics.histogram(INTER_DELIVERY, (self.stats.model,))
        interval_s = state.limits.ping_interval_s
        return SSEResponse(events, headers, self._end, interval_s, self.stats)

    async def collect(self, http: Request) -> list["ChoiceState"]:
        """Return all choices once they have finished, or as they are if the client disconnects."""
        self._observe(http)
        choices, stats = self.choices(), self.stats
        try:
            with DisconnectWatch(http.receive, self.completions.cancel):
                async for index, chunk in self.completions:
                    stats.count(chunk, index)
                    stats.delivered()
                    choices[index].update_counts(chunk)
                    choices[index].chunks.append(chunk)
        except CarouselError as error:
            stats.failed(error)
            raise
        finally:
            self._end()
        return choices

    def _observe(self, http: Request) -> None:
        """Note the request's numbers for its log record and the metrics."""
        stats = self.stats
        stats.model, stats.session = str(self.model.ref), "no" if self.turn is None else "yes"
        stats.timings = [request.timing for request in self.requests]
        stats.prompt_tokens = self.prompt_tokens
        note_stats(http, stats)

    def _end(self) -> None:
        self.completions.cancel()
        usage = self.completions.usage
        self.stats.known_tokens = usage.cached_tokens
        self.stats.discarded_tokens = usage.discarded_tokens


@dataclass(slots=True)
class ChoiceState:
    """What has arrived of one choice. Only a whole reply keeps the chunks."""

    index: int
    stop: Sequence[str]
    n_tokens: int = 0
    held: list[int] = field(default_factory=list)  # sampled but not yet sent
    finish: Finish | None = None
    first_chunk_s: float | None = None
    chunks: list[Chunk] = field(default_factory=list)

    def update_counts(self, chunk: Chunk) -> None:
        """Count a chunk's tokens and note its finish."""
        if self.first_chunk_s is None:
            self.first_chunk_s = time.perf_counter()
        self.n_tokens += len(chunk.tokens)
        self.finish = chunk.finish
        if self.stop:
            self.held += chunk.sampled
            del self.held[: len(chunk.tokens)]

    @property
    def generated_tokens(self) -> int:
        """The number of sampled tokens, those of a stop string included."""
        if self.finish is not None:
            return self.finish.generated_tokens
        return self.n_tokens + len(self.held)

    @property
    def tokens(self) -> list[int]:
        """The tokens of all chunks."""
        return [token for chunk in self.chunks for token in chunk.tokens]

    @property
    def logprobs(self) -> list[float]:
        """The logprob of each token."""
        return [logprob for chunk in self.chunks for logprob in chunk.logprobs]

    @property
    def top_tokens(self) -> list[Sequence[Token]]:
        """The most likely tokens at each token, if requested."""
        return [top for chunk in self.chunks for top in chunk.top_tokens]
