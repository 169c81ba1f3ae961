"""What one engine has computed since its start."""

import time
from dataclasses import dataclass, field

from service.generation.plan import Plan, Start
from service.metrics.families import STEP_ROWS
from service.metrics.histogram import Histogram


@dataclass(slots=True)
class EngineStats:
    """Counts of one engine. Its thread writes, anyone reads."""

    prompt_tokens: int = 0  # that the network has read
    generated_tokens: int = 0  # sampled, without those that were forced
    beam_tokens: int = 0  # of the texts that beam searches have returned; the event loop writes
    rows: Histogram = field(default_factory=lambda: Histogram(STEP_ROWS))  # of each burst

    def begin(self, plan: Plan) -> None:
        """Count what a burst reads, and note when its requests got their rows."""
        for feed in plan.feeds:
            self.prompt_tokens += feed.n_prompt
        if plan.rows:
            self.rows.observe(plan.rows - plan.first)
        for change in plan.changes:
            if isinstance(change, Start):
                self.prompt_tokens += 1  # the first one, which a row begins with
                if change.request.timing.started_s is None:
                    change.request.timing.started_s = time.perf_counter()
