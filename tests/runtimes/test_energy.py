"""Counters of energy: written files where the hardware has none, and the documented output of npu-smi."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eyas.runtimes import bandwidth, energy
from eyas.runtimes.energy import NpuSmi, Rapl, energy_meter, integrated, npu_power_w
from eyas.storage.processor import available_memory_bytes, cache_bytes, memory_limits_bytes, total_memory_bytes

ATLAS_500 = """\tNPU ID                         : 0
        Chip Count                     : 1

        Chip ID                        : 0
        NPU Real-time Power(W)         : 9.1

        Power Dissipation(W)           : 16.9
        Chip Name                      : MCU
"""
"""As Huawei documents `npu-smi info -t power -i 0` of the Atlas 200I A2 and 500 A2 (npu-smi 25.2.0)."""


def zone(root: Path, directory: str, *, name: str, energy_uj: int) -> Path:
    (root / directory).mkdir()
    (root / directory / "name").write_text(f"{name}\n")
    (root / directory / "max_energy_range_uj").write_text("1000000000\n")
    (root / directory / "energy_uj").write_text(f"{energy_uj}\n")
    return root / directory / "energy_uj"


def test_rapl_adds_the_packages_and_follows_a_counter_that_starts_again(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", name="package-0", energy_uj=5_000_000)
    second = zone(tmp_path, "intel-rapl:1", name="package-1", energy_uj=999_000_000)
    part = zone(tmp_path, "intel-rapl:0:0", name="core", energy_uj=0)
    board = zone(tmp_path, "intel-rapl:2", name="psys", energy_uj=0)
    with Rapl(tmp_path) as meter:
        first.write_text("7500000\n")
        second.write_text("500000\n")
        part.write_text("2000000\n")
        board.write_text("9000000\n")
    assert meter.joules == pytest.approx(2.5 + 1.5)  # 7.5 - 5, and 1,000 - 999 + 0.5


def test_counters_that_are_missing_or_for_root_only_measure_nothing(tmp_path: Path) -> None:
    with Rapl(tmp_path) as missing:
        pass
    assert missing.joules is None
    zone(tmp_path, "intel-rapl:0", name="package-0", energy_uj=1).unlink()  # as unreadable as one for root only
    with Rapl(tmp_path) as unreadable:
        pass
    assert unreadable.joules is None


def test_npu_smi_tells_the_chip_s_power_not_the_board_s() -> None:
    assert npu_power_w(ATLAS_500) == 9.1
    assert npu_power_w(ATLAS_500 + ATLAS_500) == pytest.approx(18.2)  # two chips of one card
    assert npu_power_w("Power Dissipation(W) : 16.9") is None


def test_power_is_integrated_over_the_whole_window_by_trapezoids() -> None:
    readings = [(1.0, 10.0), (2.0, 20.0), (4.0, 20.0)]
    assert integrated(readings, start=1.0, end=4.0) == 15 + 40
    assert integrated(readings, start=0.5, end=4.25) == 0.5 * 10 + 15 + 40 + 0.25 * 20
    assert integrated(readings, start=1.5, end=3.0) == 0.5 * (15 + 20) / 2 + 20  # the last was read after the end
    assert integrated([(0.0, 10.0)], start=0.0, end=1.0) is None


def test_readings_that_come_late_count_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(meter: NpuSmi) -> None:  # as a program that takes 1 s, and is asked twice within 4 s
        meter._samples += [(101.0, 8.0), (102.0, 8.0)]

    clock = iter((100.0, 104.0))
    monkeypatch.setattr(NpuSmi, "_sample", late)
    monkeypatch.setattr(energy, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with NpuSmi() as meter:
        pass
    assert meter.joules == 4 * 8.0


def test_npu_smi_is_read_while_something_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "npu-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{ATLAS_500}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    started = time.perf_counter()
    with energy_meter(device=True) as meter:
        time.sleep(0.7)
    lasted = time.perf_counter() - started
    assert meter.joules is not None
    assert 9.1 * 0.7 <= meter.joules <= 9.1 * lasted


def test_without_npu_smi_nothing_is_measured_of_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with energy_meter(device=True) as meter:
        pass
    assert isinstance(meter, NpuSmi)
    assert meter.joules is None


def test_bandwidth_is_bytes_by_seconds_of_the_best_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "ARRAY_BYTES", 2**24)
    array = np.ones(2**21, np.int64)
    tries = []
    for _ in range(5):
        started = time.perf_counter()
        array.sum()
        tries.append(array.nbytes / (time.perf_counter() - started))
    assert 0.1 * max(tries) < bandwidth.read_bandwidth() < 20 * max(tries)


def test_measuring_bandwidth_leaves_a_small_device_its_memory() -> None:
    assert bandwidth.array_bytes(2, memory=8 * 2**30, cache=2**25) == 2**28  # an eighth are 512 MiB for each core
    assert bandwidth.array_bytes(4, memory=2**30, cache=2**21) == 2**25  # 4 × 32 MiB of 1 GiB
    assert bandwidth.array_bytes(64, memory=2**40, cache=2**27) == 2**24  # 1 GiB in all
    assert bandwidth.array_bytes(64, memory=2**40, cache=3 * 2**28) == 3 * 2**24  # four times 768 MiB in all


def test_a_containers_limit_is_found_in_both_versions_of_control_groups(tmp_path: Path) -> None:
    (tmp_path / "memory" / "docker" / "abc").mkdir(parents=True)
    (tmp_path / "pod" / "inner").mkdir(parents=True)
    for path, limit in {
        "memory/memory.limit_in_bytes": "9223372036854771712",  # as version 1 writes none
        "memory/docker/abc/memory.limit_in_bytes": "4294967296",
        "pod/memory.max": "8589934592",
        "pod/inner/memory.max": "max",
    }.items():
        (tmp_path / path).write_text(f"{limit}\n")
    of_process = tmp_path / "cgroup"

    def least(line: str) -> int:
        of_process.write_text(f"4:cpu,cpuacct:/docker/abc\n{line}\n")
        return min(memory_limits_bytes(tmp_path, of_process))

    assert least("3:memory:/docker/abc") == 2**32
    assert least("0::/pod/inner") == 2**33  # of the group around it
    (tmp_path / "memory.max").write_text("2147483648\n")
    assert least("0::/as/the/host/calls/it") == 2**31
    assert memory_limits_bytes(tmp_path, tmp_path / "none") == []
    assert 0 < available_memory_bytes() <= total_memory_bytes()


def test_a_cache_that_cores_share_counts_once(tmp_path: Path) -> None:
    for core in os.sched_getaffinity(0):
        for index, size, shared in ((2, "1024K", f"{core}"), (3, "32768K", "0-1023")):
            level = tmp_path / f"cpu{core}" / "cache" / f"index{index}"
            level.mkdir(parents=True)
            (level / "size").write_text(f"{size}\n")
            (level / "shared_cpu_list").write_text(f"{shared}\n")
    assert cache_bytes(tmp_path) == 2**25
    assert cache_bytes(tmp_path / "none") == 0
