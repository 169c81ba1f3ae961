"""The counts of train jobs that the metrics show."""

from dataclasses import replace

from service.training.job import JobKey, TrainJob
from service.training.job_spec import TrainJobSpec
from service.training.recipe import Recipe
from service.training.states import JobState
from service.training.tally import JobTally

SPEC = TrainJobSpec("a", "corpus", Recipe())
NOTHING = {
    **dict.fromkeys(("started_s", "ended_s", "progress", "validation", "best"), None),
    **dict.fromkeys(("version", "model", "error"), None),
}
JOB = TrainJob(JobKey("", "j"), SPEC, JobState.QUEUED, 1, 0, 0.0, **NOTHING)
STEP = SPEC.recipe.schedule.batch_size * SPEC.recipe.schedule.sequence_length


def at(step: int, **more) -> TrainJob:
    return replace(JOB, state=JobState.RUNNING, progress={"step": step}, **more)


def test_jobs_characters_and_ends_are_counted_once():
    tally = JobTally()
    tally.look([JOB], [])
    assert tally.by_status == {"queued": 1}
    tally.look([at(3)], [])
    tally.look([at(3)], [])
    assert tally.by_status == {"running": 1}
    assert tally.characters == 3 * STEP
    assert tally.gone([at(3)]) == []
    assert tally.gone([]) == [JOB.key]
    tally.look([], [replace(at(5), state=JobState.SUCCEEDED)])
    assert (tally.by_status, tally.characters) == ({}, 5 * STEP)
    assert tally.attempts == {"succeeded": 1}
    assert tally.gone([]) == []


def test_the_steps_after_the_last_progress_are_counted_with_the_validation():
    tally = JobTally()
    tally.look([JOB], [])
    tally.look([at(1)], [])
    tally.look([], [at(1, validation={"step": 40})])
    assert tally.characters == 40 * STEP


def test_an_attempt_that_follows_another_was_a_retry_and_reads_again():
    tally = JobTally()
    tally.look([at(9)], [])
    before = tally.characters
    tally.look([at(4, attempt=2)], [])
    tally.look([at(6, attempt=2)], [])
    assert tally.attempts == {"retried": 1}
    assert tally.characters == before + 2 * STEP


def test_what_was_read_before_the_server_began_is_not_counted():
    tally = JobTally()
    tally.look([at(100)], [])
    assert tally.characters == 0
