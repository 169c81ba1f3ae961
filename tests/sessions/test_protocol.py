"""The session protocol over a real store, under random sequences of faults."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Flaky

from service.sessions.group_commit import GroupCommit
from service.sessions.redis_client import read_scripts
from tests.sessions.cluster import strict
from tests.sessions.stories import play, stories
from tests.sessions.world import CONFIG, IDLE_LIMIT_S, World, make_program, turn_request

IMPATIENT = replace(CONFIG, call_timeout_s=0.02)
MANY = 300
"""Stories within which every mutant below is found."""

BUDGETS = [60, pytest.param(MANY, marks=pytest.mark.soak)]


@pytest.fixture(scope="module")
def alike():
    return [make_program()]


@pytest.fixture(scope="module")
def drifting():
    return [make_program(drift) for drift in (1, 2, 3)]


def run_stories(check, n: int, told=stories) -> None:
    """Hand the first n stories to `check`, the same ones each time, up to a failure."""
    budget = settings(
        max_examples=n,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    budget(given(told)(check))()


def run_story(valkey, programs, story, scripts=None, commits=GroupCommit) -> None:
    world = World(valkey, programs, scripts, commits, IMPATIENT, IDLE_LIMIT_S)
    try:
        play(world, story)
    finally:
        world.close()


def is_found(valkey, programs, **mutant) -> bool:
    """Whether a story breaks a promise."""
    found = []

    def check(story):
        try:
            run_story(valkey, programs, story, **mutant)
        except AssertionError as error:
            found.append(error)
            raise

    with contextlib.suppress(AssertionError, Flaky):
        run_stories(check, MANY)
    return bool(found)


@pytest.mark.parametrize("n", BUDGETS)
def test_every_promise_holds_in_every_story(store, alike, n):
    run_stories(lambda story: run_story(store, alike, story), n)


@pytest.mark.parametrize("n", BUDGETS)
def test_a_log_has_one_writer_even_if_processes_compute_differently(valkey, drifting, n):
    run_stories(lambda story: run_story(valkey, drifting, story), n)


@pytest.mark.parametrize("n", BUDGETS)
def test_every_promise_holds_on_a_cluster_with_no_key_that_is_not_declared(cluster, alike, n):
    scripts = strict(read_scripts())
    run_stories(lambda story: run_story(cluster, alike, story, scripts), n)


class SendsFirst(GroupCommit):
    """A group commit that sends before it commits."""

    async def flush(self) -> None:
        for writer in list(self._turns):
            for progress in writer._progress:
                writer.stream.deliver(progress)
        await super().flush()


MUTANTS = {
    "no idempotency": ("begin", "if earlier and earlier.birth", "if false and earlier.birth"),
    "doubled tokens": (
        "commit",
        "  local there = math.min(r.position, to)",
        (
            "  if from < r.position then from, to = r.position, r.position + #added / r.width end\n"
            "  local there = from"
        ),
    ),
    "no fence for tokens": (
        "commit",
        "if r.nonce ~= nonce then",
        "if r.nonce ~= nonce and status ~= '' then",
    ),
    "no fence for the end": (
        "commit",
        "if r.nonce ~= nonce then",
        "if r.nonce ~= nonce and status == '' then",
    ),
    "a fork writes into its parent's log": (
        "fork",
        "'tail', ARGV[6 + i],\n      'base', at, 'chain', chain_of(list)",
        "'tail', r.tail,\n      'base', r.base, 'chain', r.chain",
    ),
    "a fork from before keeps a later state": (
        "fork",
        "snapshot_position(r) < at then",
        "true then",
    ),
    "a rewind keeps a later state": (
        "rewind",
        "if snapshot_position(r) >= to then",
        "if false then",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_a_script_is_found(valkey, alike, name):
    assert is_found(valkey, alike, scripts=mutated(*MUTANTS[name]))


def mutated(script: str, right: str, wrong: str) -> dict[str, str]:
    scripts = read_scripts()
    assert scripts[script].count(right) == 1
    return scripts | {script: scripts[script].replace(right, wrong)}


def test_sending_before_the_commit_is_found(valkey, alike):
    assert is_found(valkey, alike, commits=SendsFirst)


def taken_over_while_stalled(valkey, drifting, scripts=None) -> None:
    """Turns that two processes run at once, which compute slightly differently."""
    for seed in range(20):
        world = World(valkey, drifting, scripts, config=IMPATIENT, replay_limit_s=IDLE_LIMIT_S)
        try:
            world.create((1, 2), seed=3)
            world.begin(0, 0, turn_request(20, seed=seed))
            for _ in range(3):
                world.work(0)
            world.stall_and_take_over(0)
            for _ in range(3):
                world.work(1)
            for p in (1, 0, 1):
                world.flush(p)
                world.check()
        finally:
            world.close()


def test_of_two_processes_that_run_one_turn_only_the_later_one_writes(valkey, drifting):
    taken_over_while_stalled(valkey, drifting)
    scripts = mutated("commit", "if r.nonce ~= nonce then", "if false then")
    with pytest.raises(AssertionError, match="two writers"):
        taken_over_while_stalled(valkey, drifting, scripts)
