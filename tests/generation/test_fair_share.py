"""Owners with rows of the same engine share its bursts, whatever the numbers of their rows."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.generation.config import EngineConfig
from service.generation.fair_share import FairShare
from service.generation.plan import Plan, Swap
from service.generation.request import GenerationRequest, SamplingParams
from service.generation.sampling import MAX_STEPS
from service.generation.table import SlotTable
from tests.fakes.digest_program import DigestProgram
from tests.generation.invariance import Stage

TEXTS = "abcdefg"
CONFIG = EngineConfig()
ENDLESS = 10**6
LONGEST = max(CONFIG.shared_row_steps, CONFIG.shared_rows // 2 * MAX_STEPS)
SHORT = GenerationRequest((1, 2, 3), 5, SamplingParams(7), owner="polite")


class Shared(Stage):
    """A stage that notes its plans."""

    def __init__(self, config: EngineConfig = CONFIG) -> None:
        self.plans = plans = list[Plan]()

        class Noting(SlotTable):
            def run(self, plan, **how):
                plans.append(plan)
                return super().run(plan, **how)

        super().__init__(DigestProgram(), TEXTS, Noting, config=config)

    def open(self, owner: str, n: int) -> list[int]:
        asked = (
            GenerationRequest((1, 2), ENDLESS, SamplingParams(i), owner=owner) for i in range(n)
        )
        return [self.submit(one) for one in asked]

    def work_n(self, n: int) -> list[Plan]:
        first = len(self.plans)
        for _ in range(n):
            assert self.work()
        return self.plans[first:]

    def tokens(self, keys: list[int]) -> list[int]:
        return [len(self.seen[key].tokens) for key in keys]


def row_steps(plan: Plan) -> int:
    return (plan.rows - plan.first) * plan.steps


@pytest.mark.parametrize("n", [8, 64, 255])
def test_one_stream_gets_as_much_as_many_of_another_owner(n):
    stage = Shared()
    greedy = stage.open("greedy", n)
    stage.work_n(20)
    (polite,) = stage.open("polite", 1)
    stage.work_n(100)  # its bursts have become long
    before = sum(stage.tokens(greedy)), *stage.tokens([polite])
    plans = stage.work_n(1_000)
    n_alone = sum(plan.rows - plan.first == 1 for plan in plans)
    assert n_alone >= len(plans) / 4
    n_greedy, n_polite = (
        sum(stage.tokens(greedy)) - before[0],
        stage.tokens([polite])[0] - before[1],
    )
    costs = [n_polite, n_greedy]
    for i, own in enumerate(([p for p in plans if p.rows == 1], [p for p in plans if p.rows > 1])):
        costs[i] += CONFIG.step_overhead_rows * sum(plan.steps for plan in own)
    assert 0.8 <= costs[0] / costs[1] <= 1.25


@pytest.mark.parametrize("n", [16, 255])
def test_each_row_of_a_heavy_owner_gets_on_beside_a_light_one(n):
    stage = Shared()
    greedy = stage.open("greedy", n)
    stage.open("polite", 1)
    stage.work_n(100)
    before = stage.tokens(greedy)
    stage.work_n(2_000)
    gained = [after - n for n, after in zip(before, stage.tokens(greedy), strict=True)]
    assert min(gained) > 0
    assert max(gained) <= 2 * min(gained) + MAX_STEPS


def test_each_row_gets_on_beside_short_requests_without_end():
    stage = Shared()
    greedy = stage.open("greedy", 100)
    stage.work_n(10)
    before = stage.tokens(greedy)
    for _ in range(300):
        key = stage.submit(SHORT)
        while stage.seen[key].finish is None:
            stage.work_n(1)
    gained = [after - n for n, after in zip(before, stage.tokens(greedy), strict=True)]
    assert min(gained) > 0


def test_a_short_request_waits_for_one_small_burst_at_most():
    alone = Shared()
    alone.submit(SHORT)
    alone.work_to_the_end()
    stage = Shared()
    stage.open("greedy", 250)
    stage.open("another", 3)
    stage.work_n(50)
    for i in range(100):
        stage.work_n(i % 7 + 3)
        key, first = stage.submit(SHORT), len(stage.plans)
        while stage.seen[key].finish is None:
            stage.work_n(1)
        plans = stage.plans[first:]
        # The three rows of the other owner may come along.
        assert sum(plan.rows - plan.first > 4 for plan in plans) <= 1
        assert all(row_steps(plan) <= LONGEST for plan in plans)
        assert len(plans) <= len(alone.plans) + 2


@pytest.mark.parametrize(("owners", "n"), [(2, 100), (8, 32), (250, 1)])
def test_owners_with_equal_numbers_of_rows_share_each_burst(owners, n):
    stage = Shared()
    for i in range(owners):
        stage.open(str(i), n)
    lone = Shared()
    lone.open("", owners * n)
    pairs = list(zip(stage.work_n(100), lone.work_n(100), strict=True))
    for plan, other in pairs:
        assert (plan.first, plan.rows, plan.steps) == (0, other.rows, other.steps)


def test_many_light_owners_are_computed_together_beside_a_heavy_one():
    stage = Shared()
    stage.open("greedy", 200)
    for i in range(50):
        stage.open(str(i), 1)
    plans = stage.work_n(500)[100:]
    sizes = Counter(plan.rows - plan.first for plan in plans)
    assert set(sizes) <= {50, CONFIG.shared_rows}
    assert min(sizes.values()) > 20


def test_a_lone_owner_has_every_row_in_every_burst():
    stage = Shared()
    stage.open("greedy", 256)
    for plan in stage.work_n(50)[1:]:
        assert (plan.first, plan.rows, plan.changes) == (0, 256, ())
        assert row_steps(plan) == CONFIG.max_row_steps


def test_bursts_stay_small_for_a_while_after_a_light_owner_has_left():
    stage = Shared(replace(CONFIG, shared_memory_row_steps=10_000))
    stage.open("greedy", 200)
    key = stage.submit(SHORT)
    while stage.seen[key].finish is None:
        stage.work_n(1)
    sizes = [row_steps(plan) for plan in stage.work_n(300)]
    assert max(sizes[:50]) <= CONFIG.shared_row_steps
    assert min(sizes[-50:]) > CONFIG.max_row_steps - 200


def test_few_rows_are_exchanged_when_owners_take_turns():
    stage = Shared()
    stage.open("greedy", 200)
    stage.open("middle", 30)
    stage.open("polite", 1)
    plans = stage.work_n(600)[100:]
    n_swaps = sum(isinstance(change, Swap) for plan in plans for change in plan.changes)
    assert n_swaps <= 2 * len(plans)


def test_an_idle_owner_saves_up_a_credit_and_no_more():
    stage = Shared()
    stage.open("greedy", 100)
    (early,) = stage.open("polite", 1)
    stage.work_n(10)
    stage.scheduler.pause(early)
    stage.work_n(2_000)
    stage.scheduler.resume(early)
    plans = stage.work_n(200)
    is_alone = [plan.rows - plan.first == 1 for plan in plans]
    alone = plans[: is_alone.index(False)]
    cost = sum(plan.steps * (1 + CONFIG.step_overhead_rows) for plan in alone)
    longest = MAX_STEPS * (1 + CONFIG.step_overhead_rows)
    assert CONFIG.idle_credit_row_steps <= cost <= CONFIG.idle_credit_row_steps + 2 * longest
    rest = is_alone[len(alone) :]
    assert sum(not one for one in rest) >= len(rest) / 4


actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abcdef"), st.integers(1, 60)),
        st.tuples(st.just("remove"), st.sampled_from("abcdef"), st.integers(1, 60)),
        st.tuples(st.just("burst"), st.just(""), st.integers(1, MAX_STEPS)),
    ),
    max_size=60,
)


def change(share: FairShare, action: str, owner: str, n: int) -> None:
    if action == "add":
        for _ in range(n):
            share.add(owner)
    else:
        for _ in range(min(n, share.rows_of(owner))):
            share.remove(owner)


@given(history=actions)
def test_no_owner_waits_for_ever(history):
    share = FairShare(CONFIG)

    def rows() -> dict[str, int]:
        return {owner: share.rows_of(owner) for owner in "abcdef" if share.rows_of(owner)}

    def burst(steps: int) -> set[str]:
        active = rows()
        assert share.is_shared == (len(active) > 1)
        if not share.is_shared:
            for owner, n in active.items():
                share.charge_lone(owner, n, steps)
            return set(active)
        owners, _ = share.choose()
        assert owners
        assert owners <= set(active)
        share.charge({owner: active[owner] for owner in owners}, steps)
        return set(owners)

    for action, owner, n in history:
        if action == "burst":
            burst(n)
        else:
            change(share, action, owner, n)
    waiting = set(rows())
    for _ in range(5_000):
        waiting -= burst(4)
        if not waiting:
            break
    assert not waiting


@pytest.mark.parametrize("rows", [1, 8, 255])
def test_a_burst_of_a_lone_owner_costs_what_a_shared_one_does(rows):
    """A lone owner's bursts are charged by a shorter way, which has to come to the same."""
    lone, shared = FairShare(CONFIG), FairShare(CONFIG)
    for share in (lone, shared):
        for _ in range(rows):
            share.add("before")
    for _ in range(50):
        lone.charge_lone("before", rows, MAX_STEPS)
        shared.choose()
        shared.charge({"before": rows}, MAX_STEPS)
    turns = []
    for share in (lone, shared):
        share.add("after")
        turns.append([])
        for _ in range(2_000):
            owners, has_lighter = share.choose()
            turns[-1].append((set(owners), has_lighter))
            share.charge({owner: share.rows_of(owner) for owner in owners}, 1)
    assert turns[0] == turns[1]


def test_idle_owners_are_forgotten():
    share = FairShare(CONFIG)
    share.add("stays")
    for i in range(1_000):
        share.add(str(i))
        share.charge({str(i): 1, "stays": 1}, 4)
        share.remove(str(i))
        share.charge_lone("stays", 1, 32)
    assert len(share._accounts) < 50
