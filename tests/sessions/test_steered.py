"""Steered turns: each step is computed by the engine and the steering that computed it first.

The steered program of these tests has slightly other weights, so that a step of the wrong engine
is another state.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from service.errors import StateModelMismatch, Validation
from service.models.steering import ENDLESS, SteeredCell, SteerOp
from service.sessions.codec import EXPORT_MAGIC, STEERED_MAGIC
from service.sessions.redis_client import read_scripts
from service.sessions.session import Session
from service.sessions.steer_spans import MAX_SPANS, cut, open_line, spans_of, steer_text
from service.sessions.store_replies import session_of
from tests.sessions.hand_engine import CONFIG as ENGINE_CONFIG
from tests.sessions.stories import asks, play, stories_of
from tests.sessions.test_protocol import run_stories
from tests.sessions.world import CONFIG, World, make_program, make_steered, turn_request

HELD = (SteeredCell(0, 2, "c", SteerOp.SET, 2.5),)
LATER = (SteeredCell(0, 1, "c", SteerOp.ADD, -0.3, 8), SteeredCell(0, 3, "f", SteerOp.SET, 0.25))
STEERS = [(), HELD, LATER, (SteeredCell(0, 5, "c", SteerOp.FREEZE, 0.0, 3, 9),)]
CLOSE = replace(CONFIG, snapshot_every=6, retain_every=8)
"""Distances at which a short story has snapshots of every kind."""

steered_asks = st.builds(
    lambda ask, steer: replace(ask, request=replace(ask.request, steer=steer)),
    asks,
    st.sampled_from(STEERS),
)
steered_stories = stories_of(steered_asks)


def world_of(valkey, scripts=None) -> World:
    made = World(
        valkey,
        [make_program()],
        scripts,
        config=CLOSE,
        engine_config=replace(ENGINE_CONFIG, state_copy_every=4),
        steered=make_steered(),
    )
    made.create((1, 2), seed=3)
    return made


@pytest.fixture
def world(valkey) -> Iterator[World]:
    made = world_of(valkey)
    yield made
    assert made.refusals == []
    made.close()


def run(world: World, n: int, p: int = 0, s: int = 0, **wanted) -> list[tuple[int, float]]:
    """A turn of n tokens; what its client has received."""
    world.begin(p, s, turn_request(n, **wanted))
    while world.processes[p].work():
        world.flush(p)
    world.check()
    return world.clients[-1].seen


def steer_of(world: World, s: int = 0) -> str:
    return world._found(world.keys[s]).session.steer


def test_a_steered_turn_is_a_span_of_its_steps(world):
    run(world, 5)
    run(world, 6, prompt=(1, 2), steer=HELD)
    run(world, 3)
    assert steer_of(world) == f"6 14 {steer_text(HELD)}\n"


def test_steering_changes_the_text(world):
    world.fork(0, 0, None, "same")
    plain = run(world, 30)
    assert run(world, 30, s=1, steer=HELD) != plain


@pytest.mark.parametrize("n_flushes", [0, 1, 2, 5])
def test_a_killed_turn_goes_on_steered_bit_for_bit(world, n_flushes):
    run(world, 7, steer=LATER)
    world.fork(0, 0, None, "same")
    whole = run(world, 40, prompt=(3,), seed=5, steer=HELD)
    world.begin(0, 1, turn_request(40, prompt=(3,), seed=5, steer=HELD))
    client = world.clients[-1]
    for _ in range(n_flushes):
        world.work(0)
        world.flush(0)
    world.crash(0)
    world.follow(1, len(world.clients) - 1)
    world.check()
    assert client.seen == whole


@pytest.mark.parametrize("to", [1, 2, 3, 6, 7, 8, 9, 15, 19, 20])
def test_a_turn_after_a_rewind_or_in_a_fork_has_the_steps_of_the_text_before(world, to):
    """`check` compares tokens and snapshots with the reference."""
    run(world, 6)
    run(world, 12, steer=HELD)
    world.fork(0, 0, to, "same")
    world.rewind(0, 0, to)
    world.crash(0)
    run(world, 9)
    run(world, 9, p=1, s=1, steer=LATER)
    run(world, 9, p=1, s=0, steer=LATER)


def test_a_session_without_snapshots_is_computed_from_its_log_alone(world):
    run(world, 20, steer=HELD)
    run(world, 20)
    for name in world.valkey.client.keys("carousel:state:*"):
        world.valkey.client.delete(name)
    for name in world.valkey.client.keys("carousel:mark:*"):
        world.valkey.client.delete(name)
    world.crash(0)
    run(world, 10, seed=8)
    assert world._found(world.keys[0]).session.position == 52


def test_a_retained_snapshot_that_has_read_a_forks_last_token_is_not_used(world):
    """The fork reads this token in its own way."""
    run(world, 30)
    client = world.valkey.client
    marks = [client.get(name) for name in client.keys("carousel:mark:*")]
    assert marks
    for at in sorted(int(mark.partition(b":")[0]) for mark in marks):
        world.fork(0, 0, at, "same")
        s = len(world.keys) - 1
        run(world, 3, s=s, steer=HELD)
        snapshot = fields_of(world, s)[b"snapshot"].decode()
        assert client.delete(world.names.part(world.keys[s], "state", snapshot))
        world.crash(0)
        run(world, 5, s=s)


def exported(world: World, s: int = 0) -> bytes:
    process = world.processes[0]

    async def export() -> bytes:
        return await process.records.export(world.keys[s], process.model)

    task = world.loop.create_task(export())
    world.do(world._driven(process, task, 10.0))
    return task.result()


def test_an_export_has_the_spans_and_goes_on_the_same(world):
    assert exported(world).startswith(EXPORT_MAGIC)
    run(world, 20, steer=HELD)
    run(world, 4)
    packed = exported(world)
    assert packed.startswith(STEERED_MAGIC)
    process = world.processes[1]
    opened = process.records.open_export(packed)
    session = world.do(process.records.import_("", opened, process.model))
    world.keys.append(session.key)
    world.cuts[session.key], world.parts[session.key] = 0, world.parts[world.keys[0]]
    assert steer_of(world, 1) == steer_of(world, 0) != ""
    world.check()
    assert run(world, 30, p=1, s=1, seed=4) == run(world, 30, seed=4)
    world.rewind(0, 1, 12)
    run(world, 9, s=1, steer=LATER)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('0 4 [[0,8,"c","set",1.0,0,9]]\n', "cell 8; those of layer 0 are 0 to 7"),
        ('0 4 [[1,0,"c","set",1.0,0,9]]\n', "layer 1"),
        ('0 4 [[0,0,"c","set",1e9,0,9]]\n', "finite number"),
        ('0 4 [[0,0,"c","set",NaN,0,9]]\n', "finite number"),
        ('0 4 [[0,0,"c","paint",1.0,0,9]]\n', "no list of steered cells"),
        ("0 4 [[0,0]]\n", "no list of steered cells"),
        ("0 4 [}]\n", "damaged"),
        ("what\n", "damaged"),
        ('0 99 [[0,0,"c","set",1.0,0,9]]\n', "beyond the end"),
        ('3 4 [[0,0,"c","set",1.0,0,9]]\n0 2 [[0,0,"c","set",1.0,0,9]]\n', "follows one"),
    ],
)
def test_an_import_that_the_model_cannot_have_is_refused(world, lines, says):
    run(world, 20, steer=HELD)
    process = world.processes[0]
    opened = replace(process.records.open_export(exported(world)), steer=lines)
    packed = opened.pack(world.signer)
    again = process.records.open_export(packed)
    with pytest.raises(Validation, match=says):
        world.do(process.records.import_("", again, process.model))


def test_an_export_of_another_model_is_refused_before_its_spans_are_read(world):
    process = world.processes[0]
    opened = replace(process.records.open_export(exported(world)), digest="cd" * 32, steer="x")
    with pytest.raises(StateModelMismatch):
        world.do(process.records.import_("", opened, process.model))


def test_a_session_has_a_limited_number_of_steered_turns(world):
    run(world, 300)

    def has(n: int) -> None:
        lines = "".join(f"{i} {i + 1} {steer_text(HELD)}\n" for i in range(n))
        world.valkey.client.hset(world.names.record(world.keys[0]), "steer", lines)

    has(MAX_SPANS)
    world.begin(0, 0, turn_request(1, steer=HELD))
    (refusal,) = world.refusals
    assert isinstance(refusal, Validation)
    assert str(MAX_SPANS) in str(refusal)
    world.refusals.clear()
    world.begin(0, 0, turn_request(1))
    world.processes[0].work()
    world.flush(0)
    has(MAX_SPANS - 1)
    world.begin(0, 0, turn_request(1, steer=HELD))
    assert not world.refusals
    assert steer_of(world).count("\n") == MAX_SPANS


def test_lines_are_cut_as_the_scripts_cut_them():
    text = steer_text(HELD)
    lines = f"2 5 {text}\n5 9 {text}\n" + open_line(13, text)
    assert cut(lines, 20) == f"2 5 {text}\n5 9 {text}\n12 19 {text}\n"
    assert cut(lines, 13) == f"2 5 {text}\n5 9 {text}\n"
    assert cut(lines, 7) == f"2 5 {text}\n5 6 {text}\n"
    assert cut(lines, 3) == cut(lines, 0) == ""
    assert [(one.start, one.stop) for one in spans_of(lines)] == [(2, 5), (5, 9), (12, ENDLESS)]
    assert spans_of(lines)[0].steer == HELD


def play_steered(valkey, story, scripts=None) -> None:
    made = world_of(valkey, scripts)
    made.keys.clear()
    try:
        play(made, story)
    finally:
        made.close()


@pytest.mark.parametrize("n", [15, pytest.param(400, marks=pytest.mark.soak)])
def test_every_promise_holds_in_every_steered_story(valkey, n):
    run_stories(lambda story: play_steered(valkey, story), n, steered_stories)


MUTANTS = {
    "a begin cuts none": (
        "begin",
        "local lines = cut_spans(r, r.position)",
        "local lines = r.steer or ''",
    ),
    "a begin keeps none": ("begin", "local lines = cut_spans(r, r.position)", "local lines = ''"),
    "the last token is in the span": ("begin", "math.max(0, r.position - 1)", "r.position"),
}


def mutant(name: str) -> dict[str, str]:
    script, old, new = MUTANTS[name]
    scripts = read_scripts()
    assert old in scripts[script]
    return scripts | {script: scripts[script].replace(old, new)}


@pytest.mark.soak
@pytest.mark.parametrize("name", MUTANTS)
def test_a_story_finds_a_script_that_keeps_them_wrongly(valkey, name):
    found = []

    def check(story) -> None:
        try:
            play_steered(valkey, story, mutant(name))
        except AssertionError as error:
            found.append(error)
            raise

    with contextlib.suppress(AssertionError, Flaky):
        run_stories(check, 300, steered_stories)
    assert found


def fields_of(world: World, s: int = 0) -> dict[bytes, bytes]:
    return world.valkey.client.hgetall(world.names.record(world.keys[s]))


def test_a_session_that_was_never_steered_has_a_record_as_before(world):
    run(world, 5)
    assert not {b"steer", b"born"} & fields_of(world).keys()


def as_an_earlier_version_reads_it(world: World) -> Session:
    """It knows no `steer`, and of `born` nothing: `birth` is what it compares."""
    fields = {name: value for name, value in fields_of(world).items() if name != b"steer"}
    pairs = [part for pair in (fields | {b"left_ms": b"1"}).items() for part in pair]
    return session_of(world.keys[0], pairs)


def test_an_earlier_version_refuses_a_session_once_it_is_steered(world):
    model = world.processes[0].model
    run(world, 5)
    cached = as_an_earlier_version_reads_it(world)
    model.check(cached)
    run(world, 5, steer=HELD)
    again = as_an_earlier_version_reads_it(world)
    assert again.incarnation != cached.incarnation, "a cached record is not found to be old"
    with pytest.raises(StateModelMismatch):
        model.check(again)
    run(world, 5)
    run(world, 5, steer=LATER)
    later = as_an_earlier_version_reads_it(world)
    assert (later.incarnation, later.digest) == (again.incarnation, again.digest)
    ours = world.do(world.processes[0].records.read(world.keys[0]))
    assert (ours.incarnation, ours.digest) == (cached.incarnation, model.digest)


def test_an_earlier_version_refuses_an_imported_steered_session(world):
    run(world, 9, steer=HELD)
    process = world.processes[0]
    opened = process.records.open_export(exported(world))
    world.keys.insert(0, world.do(process.records.import_("", opened, process.model)).key)
    with pytest.raises(StateModelMismatch):
        process.model.check(as_an_earlier_version_reads_it(world))


def test_what_an_earlier_version_has_forked_without_its_steering_is_refused(world):
    run(world, 5, steer=HELD)
    world.fork(0, 0, None, "same")
    world.valkey.client.hdel(world.names.record(world.keys[1]), "steer")
    world.begin(0, 1, turn_request(5))
    (refusal,) = world.refusals
    assert isinstance(refusal, StateModelMismatch)
    assert "fork the session that it comes from again" in str(refusal)
    world.refusals.clear()


def test_a_retry_of_a_turn_whose_tokens_were_made_again_in_another_way_is_not_answered(world):
    wanted = {"prompt": (2,), "pattern": "abcabc"}
    first = run(world, 6, key="k", **wanted)
    assert run(world, 6, key="k", **wanted) == first
    world.rewind(0, 0, 2)
    again = run(world, 6, steer=HELD, **wanted)
    assert [token for token, _ in again] == [token for token, _ in first]
    assert again != first
    assert run(world, 6, key="l", prompt=(3,), steer=HELD) == run(
        world, 6, key="l", prompt=(3,), steer=HELD
    )
    world.begin(0, 0, turn_request(6, key="k", **wanted))
    (refusal,) = world.refusals
    assert "rewound" in str(refusal)
    world.refusals.clear()
