"""The theorem of batch invariance: a generation in any batch equals the one alone, bit for bit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.generation.config import EngineConfig
from service.generation.request import Chunk, Finish, GenerationRequest, Token
from service.generation.sampling import Sampler
from service.generation.scheduler import Scheduler
from service.generation.table import SlotTable
from service.generation.token_texts import CHARACTERS, TextRules
from service.models.step import State, StepProgram

CAPACITY = 3
CONFIG = EngineConfig(max_rows=CAPACITY, queue_limit=1_000, slice_steps=2)
SHARED = EngineConfig(  # owners take turns at almost every burst, with parts of their rows
    max_rows=8,
    queue_limit=1_000,
    slice_steps=2,
    max_row_steps=8,
    shared_rows=2,
    shared_row_steps=4,
    shared_memory_row_steps=20,
    step_overhead_rows=0,
)


@dataclass
class Transcript:
    """Everything that the reader of one stream has received."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_tokens: list[Sequence[Token]] = field(default_factory=list)
    finish: Finish | None = None
    sampled: list[int] = field(default_factory=list)
    state: State | None = field(default=None, compare=False)

    def add(self, chunk: Chunk) -> None:
        assert self.finish is None, "a stream goes on after its end"
        self.tokens += chunk.tokens
        self.logprobs += chunk.logprobs
        self.top_tokens += chunk.top_tokens
        self.finish = chunk.finish
        self.sampled += chunk.sampled
        self.state = chunk.state or self.state

    def is_prefix_of(self, other: "Transcript") -> bool:
        n = len(self.tokens)
        return (
            self.tokens == other.tokens[:n]
            and self.logprobs == other.logprobs[:n]
            and self.top_tokens == other.top_tokens[: len(self.top_tokens)]
        )


class Stage:
    """A scheduler and a table without a thread: `work` runs one burst."""

    def __init__(
        self,
        program: StepProgram,
        texts: Sequence[str],
        table: Callable[[StepProgram, Sampler, int, int], SlotTable] = SlotTable,
        threads: int = 1,
        rules: TextRules = CHARACTERS,
        config: EngineConfig = CONFIG,
    ) -> None:
        self.scheduler = Scheduler(texts, config, rules=rules)
        sampler = Sampler(program.vocabulary_size, config.max_rows, (), rules.end_ids)
        self._table = table(program, sampler, config.max_rows, threads)
        self.seen: dict[int, Transcript] = {}

    def submit(self, request: GenerationRequest) -> int:
        key = len(self.seen)
        self.seen[key] = Transcript()
        self.scheduler.submit(key, request)
        return key

    def work(self) -> bool:
        plan = self.scheduler.plan()
        if plan is None:
            return False
        for progress in self.scheduler.apply(plan, *self._table.run(plan)):
            assert progress.failure is None
            self.seen[progress.key].add(progress.chunk)
        return True

    def work_to_the_end(self) -> None:
        while self.work():
            pass
        self._table.close()


def check_invariance(
    program: StepProgram,
    texts: Sequence[str],
    history: Sequence[tuple[str, object]],
    table: Callable[[StepProgram, Sampler, int, int], SlotTable] = SlotTable,
    threads: int = 1,
    alone_program: StepProgram | None = None,
    rules: TextRules = CHARACTERS,
    *,
    config: EngineConfig = CONFIG,
) -> list[Finish]:
    """Play a history; each generation must equal the one alone, or begin it if cancelled.

    Returns the ends of those that were not cancelled.
    """
    stage, ends = Stage(program, texts, table, threads, rules, config), []
    asked: list[GenerationRequest] = []
    cancelled = set()
    for action, argument in history:
        if action == "submit":
            asked.append(argument)
            stage.submit(argument)
        elif action == "work":
            stage.work()
        elif action == "cancel":
            stage.scheduler.cancel(argument)
            cancelled.add(argument)
        elif action == "pause":
            stage.scheduler.pause(argument)
        else:
            stage.scheduler.resume(argument)
    for key in stage.seen:
        stage.scheduler.resume(key)
    stage.work_to_the_end()
    assert stage.scheduler.rows == 0
    for key, request in enumerate(asked):
        alone = Stage(alone_program or program, texts, rules=rules)
        alone.submit(request)
        alone.work_to_the_end()
        if key in cancelled:
            assert stage.seen[key].is_prefix_of(alone.seen[0])
        else:
            assert stage.seen[key] == alone.seen[0]
            assert alone.seen[0].finish is not None
            ends.append(alone.seen[0].finish)
    return ends
