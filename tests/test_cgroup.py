import os
import subprocess
import sys

import pytest

from service.cgroup import CgroupLimits, MachineShare, machine_share, read_limits

GIB = 1024**3


@pytest.fixture
def limits_of(tmp_path):
    """The limits of a process whose groups and files are these."""

    def read(membership: str, **files: str) -> CgroupLimits:
        (tmp_path / "membership").write_text(membership)
        for name, content in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return read_limits(tmp_path / "membership", tmp_path / "root")

    return lambda membership, files: read(membership, **files)


@pytest.mark.parametrize(
    ("cpu_max", "cpus"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000\n", 1.5),
        ("max 100000\n", None),
        ("50000 0\n", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_a_quota_of_version_2_is_cores(limits_of, cpu_max, cpus):
    assert limits_of("0::/\n", {"cpu.max": cpu_max}).cpus == cpus


def test_the_tightest_limit_of_the_groups_above_counts(limits_of):
    files = {
        "cpu.max": "max 100000",
        "kubepods/cpu.max": "400000 100000",
        "kubepods/pod/cpu.max": "800000 100000",
        "kubepods/memory.max": str(4 * GIB),
        "kubepods/pod/memory.max": "max",
    }
    assert limits_of("0::/kubepods/pod\n", files) == CgroupLimits(4.0, 4 * GIB)


def test_a_container_that_sees_only_its_own_group_finds_it_at_the_root(limits_of):
    files = {"cpu.max": "100000 100000", "memory.max": str(GIB)}
    assert limits_of("0::/docker/0123abc\n", files) == CgroupLimits(1.0, GIB)


def test_the_limits_of_version_1(limits_of):
    membership = "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n3:cpuset:/\n0::/\n"
    files = {
        "cpu/docker/a/cpu.cfs_quota_us": "300000\n",
        "cpu/docker/a/cpu.cfs_period_us": "100000\n",
        "cpu/cpu.cfs_quota_us": "-1\n",
        "cpu/cpu.cfs_period_us": "100000\n",
        "memory/docker/a/memory.limit_in_bytes": f"{2 * GIB}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    assert limits_of(membership, files) == CgroupLimits(3.0, 2 * GIB)


@pytest.mark.parametrize("membership", ["", "nonsense", "::::", "0::/../../etc\n"])
def test_without_groups_there_is_no_limit(limits_of, membership):
    assert limits_of(membership, {}) == CgroupLimits()


@pytest.mark.parametrize(
    ("affinity", "cpus", "cores"),
    [(64, 2.0, 2), (64, 2.9, 2), (64, 0.5, 1), (3, 8.0, 3), (4, None, 4)],
)
def test_the_cores_are_the_affinity_cut_by_the_quota_and_at_least_one(affinity, cpus, cores):
    assert MachineShare(64, affinity, GIB, CgroupLimits(cpus)).cores == cores


@pytest.mark.parametrize(("limit", "found"), [(None, 8), (2, 2), (2**33, 8)])
def test_the_memory_is_the_containers_limit_where_there_is_one(limit, found):
    limits = CgroupLimits(memory_bytes=None if limit is None else limit * GIB)
    assert MachineShare(1, 1, 8 * GIB, limits).memory_bytes == found * GIB


@pytest.mark.parametrize(
    ("affinity", "cpus", "is_own"), [(4, None, True), (2, None, False), (4, 4.0, False)]
)
def test_cores_are_its_own_without_a_quota_and_with_all_of_the_machine(affinity, cpus, is_own):
    assert MachineShare(4, affinity, GIB, CgroupLimits(cpus)).has_own_cores is is_own


def test_this_machine_has_a_core_and_some_memory():
    share = machine_share()
    assert 1 <= share.cores <= share.machine_cores
    assert 0 < share.memory_bytes <= share.machine_memory_bytes


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity")
def test_a_process_that_is_bound_to_one_core_has_one_thread_by_default():
    one = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})"
    asks = "from service.settings import Settings; print(Settings.read().threads)"
    environ = {k: v for k, v in os.environ.items() if not k.startswith("CAROUSEL_")}
    command = [sys.executable, "-c", f"{one}; {asks}"]
    found = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"
