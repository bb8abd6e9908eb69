"""Counters of energy: written files where the hardware has none, and the documented output of npu-smi."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from eyas.runtimes import bandwidth
from eyas.runtimes.energy import NpuSmi, Rapl, energy_meter, integrated, npu_power_w

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


def test_power_is_integrated_by_trapezoids() -> None:
    assert integrated([(0.0, 10.0), (1.0, 20.0), (3.0, 20.0)]) == 15 + 40
    assert integrated([(0.0, 10.0)]) is None


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
    assert 0 < meter.joules <= 9.1 * lasted


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
    assert bandwidth.array_bytes(2, memory=8 * 2**30) == 2**28  # an eighth are 512 MiB for each core
    assert bandwidth.array_bytes(4, memory=2**30) == 2**25  # 4 × 32 MiB of 1 GiB
