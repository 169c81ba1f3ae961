import asyncio
import string
import threading
import time

import numpy as np
import pytest

from service.constraints.compiler import AT_ONCE, ConstraintCompiler, compile_constraint
from service.constraints.constraint import DEAD
from service.constraints.spec import choice, json_object, regex
from service.errors import Validation

VOCABULARY = [*string.printable[:95], "\n"]
PATIENCE_S = 20.0  # on a busy machine; on an idle one it takes a second


@pytest.mark.parametrize(
    "pattern",
    [
        "a{1000000}",
        "a{60000}",
        "(((((a{10}){10}){10}){10}){10})",
        "((((a?){10}){10}){10}){10}",
        "(a?){20000}",
        "((a{0,100}){0,100}){0,3}",
        "(a|b)*a(a|b){20}",
        "(a|b)*a(a|b){15}",
        "(.*a){20}.{20}(.*b){20}",
        "(" * 60 + "a" + ")" * 60,
        "a{99999999999999999999}",
        "(((((((((a{9999}){9999}){9999}){9999}){9999}){9999}){9999}){9999}){9999})",
    ],
)
def test_a_hostile_pattern_is_refused_in_bounded_time(pattern):
    start = time.monotonic()
    with pytest.raises(Validation, match=r"limit|more than 65535"):
        compile_constraint(regex(pattern), VOCABULARY)
    assert time.monotonic() - start < PATIENCE_S


@pytest.mark.parametrize(
    ("pattern", "n_states"),
    [
        ("((a|aa)*){1000}", 1),
        ("(((((a+)+)+)+)+)+b", 3),
        ("(x+x+)+y", 4),
        ("((a*){100}){100}", 1),
        ("[a-z][a-z0-9]{0,30}@", 33),
        (r"\w{400}", 401),
    ],
)
def test_what_is_only_hard_to_backtrack_is_easy(pattern, n_states):
    constraint = compile_constraint(regex(pattern), VOCABULARY)
    assert len(constraint.distance) <= n_states + 1


def test_a_long_pattern_is_refused():
    with pytest.raises(Validation, match="the regex has 65537 characters; 65536 is the limit"):
        regex("a" * 65_537)


def test_no_choices_are_refused():
    with pytest.raises(Validation, match="no texts"):
        choice([])


@pytest.mark.parametrize("source", [regex("日本"), choice(["日", "本"]), regex(r"a[^\s\S]")])
def test_what_the_vocabulary_cannot_spell_is_refused(source):
    with pytest.raises(Validation, match=r"no text matches .* the model's 96 characters"):
        compile_constraint(source, VOCABULARY)


def test_a_limit_that_is_too_small_is_refused():
    constraint = compile_constraint(regex("[0-9]{3}-[0-9]{4}"), VOCABULARY)
    constraint.check_fits(8)
    with pytest.raises(Validation, match=r"max_new_tokens is 7, and the shortest .* has 8 tokens"):
        constraint.check_fits(7)


def test_special_tokens_are_never_allowed():
    vocabulary = ["a", "ab", None, "", "b"]
    constraint = compile_constraint(regex(".*"), vocabulary)
    assert constraint.allowed(0, 9).tolist() == [True, False, False, False, True]


def test_a_big_vocabulary_costs_no_more_states():
    letters = [chr(code) for code in range(0x4E00, 0x4E00 + 60_000) if not 0xD800 <= code < 0xE000]
    constraint = compile_constraint(regex(r"\w{2,20}|[^一]"), letters[:50_000])
    assert constraint.next_state.shape[1] < 5
    assert constraint.token_class.shape == (50_000,)


def test_states_are_a_function_of_the_tokens():
    constraint = compile_constraint(regex("(ab|ac)*d"), "abcd")
    whole = [0, 1, 0, 2, 3]
    for cut in range(len(whole)):
        state = constraint.state_after(whole[:cut])
        assert constraint.state_after(whole[cut:], state) == constraint.state_after(whole)
    assert constraint.state_after([3, 3]) == DEAD
    assert constraint.state_after([3, 3, 0]) == DEAD


def test_a_text_is_over_where_no_longer_one_fits():
    constraint = compile_constraint(regex("a|abcd"), "abcd")
    after = constraint.state_after([0])
    assert constraint.is_over(after, 2)
    assert not constraint.is_over(after, 3)
    assert not constraint.is_over(after, 0)
    assert constraint.is_over(constraint.state_after([0, 1, 2, 3]), 0)


def test_the_same_constraint_is_compiled_once():
    asked = []

    def counted(spec, vocabulary):
        asked.append(spec)
        return compile_constraint(spec, vocabulary)

    known = ConstraintCompiler(VOCABULARY, build=counted)
    assert known.compile(regex("a+")) is known.compile(regex("a+"))
    for _ in range(2):
        with pytest.raises(Validation, match="not a regular expression"):
            known.compile(regex("("))
    assert asked == [regex("a+"), regex("(")]


async def test_a_cached_constraint_does_not_wait_for_others():
    begun, resumes = threading.Semaphore(0), threading.Event()

    def slow_with_braces(spec, vocabulary):
        if "{" in spec.text:
            begun.release()
            resumes.wait(PATIENCE_S)
        return compile_constraint(spec, vocabulary)

    known = ConstraintCompiler(VOCABULARY, build=slow_with_braces)
    first = await known.compiled(regex("a+"))
    with pytest.raises(Validation):
        await known.compiled(regex("("))
    waiting = [asyncio.create_task(known.compiled(regex(f"a{{{n}}}"))) for n in range(1, 61)]
    try:
        for _ in range(AT_ONCE):
            assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE_S)
        assert not begun.acquire(timeout=0.05)  # no more of them at once
        async with asyncio.timeout(PATIENCE_S / 4):
            assert await known.compiled(regex("a+")) is first
            with pytest.raises(Validation):
                await known.compiled(regex("("))
            assert await asyncio.to_thread(lambda: "a thread is free")
    finally:
        resumes.set()
    assert [(await one).shortest for one in waiting] == list(range(1, 61))


def test_the_cache_is_bounded_and_drops_the_least_recently_used():
    known = ConstraintCompiler(VOCABULARY, cache_bytes=400_000)
    first = known.compile(json_object())
    for n in range(1, 40):
        known.compile(regex(f"a{{{100 * n}}}"))
        assert known.size_bytes <= 400_000
    assert known.compile(json_object()) is not first
    assert (known.compile(json_object()).table == first.table).all()


def test_numbering_is_the_same_in_every_process():
    """The number of a state does not depend on the hash seed of a process."""
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    script = (
        "from service.constraints.compiler import compile_constraint as c\n"
        "from service.constraints.spec import json_object\n"
        "import string, zlib\n"
        "print(zlib.crc32(c(json_object(), string.printable).table.tobytes()))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1
    assert np.isfinite(float(seen.pop()))
