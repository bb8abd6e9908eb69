"""Energy, where a counter can be read: RAPL of the processor packages, npu-smi of an Ascend chip.

RAPL counts the processor package: no memory modules, no board. npu-smi's real-time power is the chip's, not the
board's ("Power Dissipation" is, on boards that have it). What the machine takes when idle is in both.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

import numpy as np

POWERCAP = Path("/sys/class/powercap")
"""https://docs.kernel.org/power/powercap/powercap.html; AMD's packages are listed as intel-rapl too."""
INTERVAL_S = 0.2
"""Between two readings of npu-smi, which itself takes a while."""
POWER = re.compile(r"NPU Real-time Power\(W\)\s*:\s*([0-9.]+)")


class EnergyMeter(Protocol):
    """A context manager: what was spent inside it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    @property
    def joules(self) -> float | None:
        """After the end; None where nothing could be read."""


class Rapl:
    """The counters of all processor packages; they count microjoules and start again at a greatest value.

    One that wraps twice within a measurement is not noticed: at 250 W that takes some 17 minutes.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._packages = [zone for zone in sorted(root.glob("intel-rapl:*")) if _is_package(zone)]
        self.joules: float | None = None

    def __enter__(self) -> Self:
        self._before = self._read()
        return self

    def __exit__(self, *error: object) -> None:
        after = self._read()
        if after is None or self._before is None or not self._packages:
            return
        total = 0
        for zone, first, last in zip(self._packages, self._before, after, strict=True):
            total += last - first if last >= first else last - first + int((zone / "max_energy_range_uj").read_text())
        self.joules = total / 1e6

    def _read(self) -> list[int] | None:
        """None where the counters are for root only."""
        try:
            return [int((zone / "energy_uj").read_text()) for zone in self._packages]
        except OSError:
            return None


def _is_package(zone: Path) -> bool:
    """Not a part of a package (intel-rapl:0:0), whose energy is counted in it."""
    try:
        return zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package")
    except OSError:
        return False


class NpuSmi:
    """The chip's power, read every 0.2 s and integrated from the meter's start to its end.

    Written from the documented output, not run on hardware.
    """

    def __init__(self, *, device_id: int = 0) -> None:
        self._command = ["npu-smi", "info", "-t", "power", "-i", str(device_id)]
        self._samples: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.joules: float | None = None

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        end = time.perf_counter()
        self._over.set()
        self._thread.join()
        self.joules = integrated(self._samples, start=self._start, end=end)

    def _sample(self) -> None:
        while not self._over.is_set():
            with suppress(OSError, subprocess.SubprocessError):
                said = subprocess.run(self._command, capture_output=True, text=True, timeout=10, check=True).stdout
                watts = npu_power_w(said)
                if watts is not None:
                    self._samples.append((time.perf_counter(), watts))
            self._over.wait(INTERVAL_S)


def npu_power_w(said: str) -> float | None:
    """The power of all chips that `npu-smi info -t power` lists, in watts; None if it lists none."""
    found = [float(watts) for watts in POWER.findall(said)]
    return sum(found) if found else None


def integrated(samples: list[tuple[float, float]], *, start: float, end: float) -> float | None:
    """Joules from start to end of (seconds, watts), in their order; None with fewer than two.

    Power is taken to change linearly between readings, and to be the first's before it and the last's after it.
    """
    if len(samples) < 2:
        return None
    seconds, watts = zip(*samples, strict=True)
    at = [start, *(moment for moment in seconds if start < moment < end), end]
    return float(np.trapezoid(np.interp(at, seconds, watts), at))


def energy_meter(*, device: bool) -> EnergyMeter:
    """Of an Ascend `device`, or else of the processor."""
    return NpuSmi() if device else Rapl()
