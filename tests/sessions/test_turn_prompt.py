"""The prompt of a turn, where the first tokens of a text differ from the others."""

from dataclasses import replace

import pytest

from service.errors import SessionMoved
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.words import WordTokenizer
from service.sessions.running_turn import RunningTurn
from service.sessions.session import Session, SessionKey
from service.sessions.turn_prompt import TurnPrompt
from tests.sessions.world import World, make_program, turn_request

BEGIN = 0
WORDS = ("<s>", "a", "b", "c", "d", "e", "f")  # as many as the network of `world.py` has
TOKENIZER = WordTokenizer(WORDS, UnknownPolicy.ERROR, None, SpecialTokens(begin=BEGIN))
KEY, N = SessionKey("", "abc"), 9


@pytest.fixture
def world(valkey):
    made = World(valkey, [make_program()], tokenizer=TOKENIZER)
    process = made.processes[0]
    made.do(process.records.create("", process.model, KEY.id, seed=1))
    yield made
    made.close()


def turn(world: World, p: int, text: str = "", meanwhile=None) -> RunningTurn:
    """Run a turn as a route does; `meanwhile` is awaited between its prompt and its begin."""
    process = world.processes[p]

    async def begin(session: Session) -> RunningTurn:
        prompt = await process.records.turn_prompt(session, process.model, text)
        if meanwhile is not None:
            await meanwhile()
        wanted = turn_request(N, prompt.tokens)
        request = replace(wanted.request, is_start=prompt.is_start)
        wanted = replace(wanted, request=request, made_for=prompt.made_for)
        return await process.turns.begin(session, process.model, wanted)

    begun = world.do(process.records.with_session(KEY, begin))
    while process.engine.work():
        world.do(process.commits.flush())
    return begun


def text_of(world: World) -> tuple[str, int]:
    process = world.processes[1]
    return world.do(process.records.text(KEY, process.model, 0, 1_000))


async def append(world: World, p: int, text: str) -> None:
    process = world.processes[p]
    prompt = TurnPrompt.of(TOKENIZER, text, 0, has_text=False)
    session = await process.records.read(KEY)
    await world._driven(process, process.turns.append(session, process.model, prompt), 10.0)


def test_a_rewind_in_another_process_brings_the_begin_token_back(world):
    """The cached record still says that the session has a text."""
    turn(world, 0)
    first = text_of(world)
    assert first[1] == 1 + N
    assert not first[0].startswith(" ")
    for to in (0, 1):
        world.do(world.processes[1].records.rewind(KEY, to))
        turn(world, 0)
        assert text_of(world) == first


def test_no_begin_token_enters_the_middle_of_a_text(world):
    """The session was empty when its record was read, and is not when the turn begins."""

    async def meanwhile() -> None:
        await append(world, 1, "a b")

    with pytest.raises(SessionMoved, match="is at position 2: it was changed"):
        turn(world, 0, meanwhile=meanwhile)
    assert text_of(world) == ("a b", 2)
    turn(world, 0)
    text, position = text_of(world)
    assert position == 2 + N
    assert text.startswith("a b ")


@pytest.mark.parametrize(
    ("text", "position", "has_text", "wanted"),
    [
        ("", 0, False, TurnPrompt([BEGIN], True, 0)),
        ("a", 0, False, TurnPrompt([1], False, 0)),
        ((BEGIN,), 0, False, TurnPrompt((BEGIN,), True, 0)),
        ("", 1, False, TurnPrompt([], True, 1)),
        ("a", 1, False, TurnPrompt([1], False, 1)),
        ("", 1, True, TurnPrompt([], False, 1)),
        ("a", 7, True, TurnPrompt([1], False, 2)),
    ],
)
def test_only_the_first_prompt_may_have_a_begin_token(text, position, has_text, wanted):
    assert TurnPrompt.of(TOKENIZER, text, position, has_text=has_text) == wanted
