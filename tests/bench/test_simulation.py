"""The simulation against what can be computed by hand."""

import pytest

from bench.simulation import Case, Cost, Simulation, _Stream, burst

FREE = Cost(1, 0.0, 0.0, 0.0)


def run(case: Case, *costs: Cost, measure_s: float = 4.0):
    return Simulation(costs, case).run(measure_s)


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
def test_threads_with_cores_of_their_own_are_as_fast_as_the_slowest(cores):
    cost = Cost(1, 10.0, 5.0, 2.0)
    found = run(Case(1, 64, cores), cost)
    # a row of 262 tokens takes 17 bursts of 16
    expected = 1e6 / max(10.0 * 272 / 256, (10.0 * 272 / 256 + 7.0) / cores)
    assert found.characters_per_s == pytest.approx(expected, rel=0.05)
    assert found.core_share == pytest.approx(min(1.0, expected * 17.6e-6 / cores), rel=0.05)


def test_processes_add_up_until_the_cores_are_used():
    cost = Cost(1, 10.0, 10.0, 0.0)
    rates = [run(Case(n, 64, 8), cost).characters_per_s for n in (1, 2, 4, 8)]
    assert rates[1] == pytest.approx(2 * rates[0], rel=0.1)
    assert rates[2] == pytest.approx(4 * rates[0], rel=0.15)
    assert rates[3] == pytest.approx(rates[2], rel=0.2)


def test_a_cost_is_interpolated_between_the_measured_numbers_of_rows():
    costs = [Cost(1, 80.0, 0, 0), Cost(64, 8.0, 0, 0), Cost(16, 20.0, 0, 0)]
    simulation = Simulation(costs, Case(1, 1))
    found = [simulation.cost(rows, "engine_us") for rows in (1, 4, 16, 32, 64, 500)]
    assert found == pytest.approx([80.0, 32.0, 20.0, 12.0, 8.0, 8.0])
    assert Simulation([FREE], Case(1, 1)).cost(9, "engine_us") == 0.0


def test_a_lone_stream_waits_for_each_step_of_its_longer_and_longer_bursts():
    found = run(Case(1, 1, prompt=1), Cost(1, 100.0, 0.0, 0.0))
    assert found.first_event_p50_s == pytest.approx(2 * 100e-6, rel=0.01)
    assert found.characters_per_s == pytest.approx(1e4 * 256 / 257, rel=0.02)


def test_a_commit_delays_a_first_event_by_a_round_trip_and_the_rate_by_nothing():
    cost = Cost(1, 20.0, 0.0, 0.0)
    plain, stored = (run(Case(1, 64, store_s=s), cost) for s in (0.0, 0.001))
    delay_s = stored.first_event_p50_s - plain.first_event_p50_s
    assert 0.0004 < delay_s < 0.03  # of a round trip, and of the commit that is in flight
    assert stored.characters_per_s == pytest.approx(plain.characters_per_s, rel=0.1)


def test_a_store_that_all_processes_share_limits_them():
    cost = Cost(1, 1.0, 0.0, 0.0)
    slow = Case(4, 64, cores=64, store_s=1e-4, store_capacity_s=1e-3)
    found = run(slow, cost)
    assert found.store_share == pytest.approx(1.0, rel=0.02)
    double = run(Case(8, 128, cores=64, store_s=1e-4, store_capacity_s=1e-3), cost)
    assert double.characters_per_s == pytest.approx(found.characters_per_s, rel=0.3)


def test_arrivals_below_the_capacity_are_all_served():
    cost = Cost(1, 10.0, 0.0, 0.0)
    found = run(Case(2, 1_000, cores=4, arrivals_per_s=100.0), cost, measure_s=20.0)
    assert found.characters_per_s == pytest.approx(256 * 100.0, rel=0.1)
    assert found.core_share < 0.2


def test_one_seed_is_one_outcome():
    case, cost = Case(2, 50, arrivals_per_s=200.0, store_s=1e-3), Cost(1, 10.0, 5.0, 2.0)
    assert run(case, cost) == run(case, cost)


@pytest.mark.parametrize(
    ("rows", "generated", "steps"), [(1, 1, 1), (1, 8, 8), (1, 200, 32), (16, 1, 16), (64, 200, 16)]
)
def test_a_burst_has_as_many_steps_as_the_schedulers(rows, generated, steps):
    streams = [_Stream(None, 0.0, 256, 0, generated) for _ in range(rows)]
    assert burst(streams) == steps
