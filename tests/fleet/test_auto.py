"""`--processes auto`: one process for each core that may be used, if there is memory for it."""

import os

import pytest

from service.cgroup import CgroupLimits, MachineShare, machine_share
from service.settings import Settings, processes_for
from tests.api.conftest import new_home
from tests.fleet.house import HEADER, House
from tests.process import ended, serving

GIB = 1024**3


@pytest.mark.parametrize(
    ("share", "n"),
    [
        (MachineShare(8, 8, 64 * GIB, CgroupLimits()), 8),
        (MachineShare(8, 3, 64 * GIB, CgroupLimits()), 3),  # affinity
        (MachineShare(8, 8, 64 * GIB, CgroupLimits(cpus=2.5)), 2),  # a quota
        (MachineShare(8, 8, 64 * GIB, CgroupLimits(cpus=0.5)), 1),
        (MachineShare(8, 2, 64 * GIB, CgroupLimits(cpus=4.0)), 2),
        (MachineShare(8, 8, 64 * GIB, CgroupLimits(memory_bytes=3 * GIB)), 3),
        (MachineShare(8, 8, 512 * 1024**2, CgroupLimits()), 1),
        (MachineShare(512, 512, 1024 * GIB, CgroupLimits()), 256),
    ],
)
def test_it_is_bounded_by_affinity_quota_and_memory(share, n):
    assert processes_for(share) == n


def test_each_has_its_part_of_the_cores():
    given = Settings(processes="auto")
    n = processes_for(machine_share())
    assert given.n_processes == n
    assert given.threads_of_process == max(1, machine_share().cores // n)
    assert Settings(processes="auto", threads=3).threads_of_process == 3


@pytest.mark.parametrize("is_bound", [False, True])
def test_a_server_has_so_many(tmp_path, is_bound):
    core = min(os.sched_getaffinity(0))
    command = ("taskset", "--cpu-list", str(core)) if is_bound else ()
    n = 1 if is_bound else processes_for(machine_share())
    home = new_home(tmp_path)
    with serving(home, command, CAROUSEL_PROCESSES="auto") as server:
        house = House(server, 0, n)
        assert len(house.names()) == n
        assert (HEADER in house.get("/info").headers) == (n > 1)


@pytest.mark.parametrize("given", ["0", "257", "some"])
def test_no_other_number_is_taken(tmp_path, given):
    done = ended(tmp_path, CAROUSEL_PROCESSES=given)
    assert done.returncode != 0
    assert f"CAROUSEL_PROCESSES is '{given}'" in done.stderr
