"""An engine without a thread: the real scheduler and table, one burst per call."""

from dataclasses import dataclass
from typing import Any

from service.generation.config import EngineConfig
from service.generation.prompt_reader import PromptReader
from service.generation.request import GenerationRequest
from service.generation.sampling import Sampler
from service.generation.scheduler import Scheduler
from service.generation.stream import Stream
from service.generation.table import SlotTable
from service.generation.token_texts import TextRules, texts_of
from service.models.step import StepProgram
from service.models.tokenizers.tokenizer import Tokenizer

CONFIG = EngineConfig(max_rows=8, queue_limit=1_000)


class HandEngine:
    """The methods of an `Engine` that sessions use; `work` is the body of its thread's loop."""

    def __init__(
        self, program: StepProgram, tokenizer: Tokenizer, config: EngineConfig = CONFIG
    ) -> None:
        self.config, self.prompts = config, PromptReader(program)
        self.texts, self.rules = texts_of(tokenizer), TextRules.of(tokenizer)
        never, ends = tokenizer.suppressed_ids, tokenizer.end_ids
        sampler = Sampler(program.vocabulary_size, config.max_rows, never, ends)
        self._table = SlotTable(program, sampler, config.max_rows)
        self._scheduler = Scheduler(self.texts, config, rules=self.rules)
        self.scoring: set[Stream] = set()  # streams, which a coroutine waits for

    def check_capacity(self, n: int = 1, owner: str = "") -> None:
        self._scheduler.check_capacity(n, owner)

    def submit(self, request: GenerationRequest) -> Stream:
        stream = Stream(self, self.cancel, self.config.backlog_limit)
        self.scoring.add(stream)
        self.submit_admitted(request, stream)
        return stream

    def submit_admitted(self, request: GenerationRequest, listener: Any) -> None:
        self._scheduler.submit(listener, self.prompts.read(request))

    def cancel(self, listener: Any) -> None:
        self.scoring.discard(listener)
        self._scheduler.cancel(listener)

    def pause(self, listener: Any) -> None:
        self._scheduler.pause(listener)

    def resume(self, listener: Any) -> None:
        self._scheduler.resume(listener)

    def finish(self, listener: Any) -> None:
        """End a generation at its deadline, as an engine with a clock does."""
        progress = self._scheduler.finish(listener)
        if progress is not None:
            listener.deliver(progress)

    def work(self) -> bool:
        """Run one burst; return whether there was anything to do."""
        plan = self._scheduler.plan()
        if plan is None:
            return False
        for progress in self._scheduler.apply(plan, *self._table.run(plan)):
            progress.key.deliver(progress)
            if progress.is_last:
                self.scoring.discard(progress.key)
        return True


@dataclass(frozen=True, slots=True)
class HandSteered:
    """The engine of steered requests, which is always there."""

    engine: HandEngine

    async def acquire(self) -> "HandSteered":
        return self
