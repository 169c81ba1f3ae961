"""The limits of a model's engine, in one frozen value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of one engine. The defaults are the values that the service runs with."""

    max_rows: int = 256  # generations in the batch
    max_table_entries: int = 32 * 1024 * 1024  # logits of the batch: rows times vocabulary
    queue_limit: int = 1_024  # generations that wait for a row
    slice_steps: int = 64  # steps of a generation before it gives its row to one that waits
    max_row_steps: int = 1_024  # rows times steps of a burst: bounds the wait for the next plan
    shared_rows: int = 8  # rows of a burst while an owner with fewer rows may wait for its end
    shared_row_steps: int = 64  # rows times steps of such a burst: about a millisecond
    shared_memory_row_steps: int = 1024 * 1024  # since one has left: about 10 s
    idle_credit_row_steps: int = 4_096  # that an idle owner saves up: a lone stream's 800 steps
    step_overhead_rows: int = 4  # what a step costs apart from its rows, in rows
    bursts_ahead: int = 2  # that the event loop has not delivered: bounds the delay of others there
    loop_burst_s: float = 0.002  # that the event loop computes where the engine's thread waits
    state_copy_every: int = 256  # tokens between two states that a running generation returns
    backlog_limit: int = 1_024  # tokens that a stream may be ahead of its reader before it pauses
    beam_search_limit: int = 256  # beam searches that run or wait
    max_beam_searches: int = 8  # beam searches that run at a time, each with a batch in memory
    beam_slice_steps: int = 32  # steps of one beam search before the next one's
    prefix_cache_bytes: int = 64 * 1024 * 1024  # states that the models' prefix cache keeps

    def rows_of(self, vocabulary_size: int) -> int:
        """Return how many generations a batch of a model with such a vocabulary has."""
        return max(1, min(self.max_rows, self.max_table_entries // vocabulary_size))
