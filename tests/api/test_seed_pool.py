"""Seeds are drawn many at a time, and are as random as one by one."""

from service.api.seed_pool import SeedPool


def test_no_seed_is_drawn_twice():
    pool = SeedPool(4)
    seeds = [pool.draw() for _ in range(1_000)]
    assert len(set(seeds)) == 1_000


def test_a_seed_has_64_bits():
    pool = SeedPool()
    seeds = [pool.draw() for _ in range(1_000)]
    assert min(seeds) >= 0
    assert 2**63 < max(seeds) < 2**64


def test_two_pools_draw_different_seeds():
    assert SeedPool(4).draw() != SeedPool(4).draw()
