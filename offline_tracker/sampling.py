"""What the hardware does while a training runs: a look every some seconds, on a thread of its own."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .errors import UsageError
from .host import packages

logger = logging.getLogger("offline_tracker")

SAMPLES_S = 15.0
_MIB = 1 << 20


def samples_s(environ: Mapping[str, str] = os.environ) -> float:
    """
    Return how many seconds lie between two samples: $OFFLINE_TRACKER_SAMPLES_S, else `SAMPLES_S`; 0 for none.

    Raises:
        UsageError: the variable is not a number of 0 or more.
    """
    text = environ.get("OFFLINE_TRACKER_SAMPLES_S") or str(SAMPLES_S)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds < float("inf"):
        raise UsageError(f"OFFLINE_TRACKER_SAMPLES_S={text!r}: use a number of seconds, or 0 for no samples")
    return seconds


class Sampler:
    """
    Looks at this process and its machine, until it is closed.

    Args:
        interval_s: seconds between two samples; 0 for none.
        sample: takes a sample, name to number; called on the sampler's thread.
        learn: takes what is found out about the machine, once, with the first sample or at the end.
    """

    def __init__(
        self,
        interval_s: float,
        sample: Callable[[dict[str, float]], object],
        learn: Callable[[dict[str, object]], object],
    ) -> None:
        self._interval_s = interval_s
        self._sample, self._learn = sample, learn
        self._gpus = Gpus()
        self._learned = False
        self._ended = threading.Event()
        self._cpu = _Cpu()
        if interval_s:
            threading.Thread(target=self._work, name="offline_tracker-sampler", daemon=True).start()

    def close(self) -> None:
        """Take no more samples. Does not wait for the thread: a GPU's driver may hang."""
        self._ended.set()
        if not self._learned:
            self._find_out()

    def _work(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                if not self._learned:
                    self._gpus.open()
                    self._find_out()
                self._sample({**self._cpu.read(), **process(), **self._gpus.read()})
            except Exception as error:  # no sample is worth a training
                logger.warning("no more samples of the hardware are taken: %s: %s", type(error).__name__, error)
                return

    def _find_out(self) -> None:
        self._learned = True
        self._learn({"packages": packages(), **self._gpus.facts()})


class _Cpu:
    """How busy the processors were since the last look."""

    def __init__(self) -> None:
        self._last = time.monotonic(), time.process_time(), _ticks()

    def read(self) -> dict[str, float]:
        """Return percentages of all processors together: what this process used, and what all of the machine did."""
        last, self._last = self._last, (time.monotonic(), time.process_time(), _ticks())
        wall_s, own_s = self._last[0] - last[0], self._last[1] - last[1]
        out = {"cpu": round(100.0 * own_s / wall_s / (os.cpu_count() or 1), 2)} if wall_s > 0 else {}
        (busy, total), (before, all_before) = self._last[2], last[2]
        if total > all_before:
            out["cpu_percent"] = round(100.0 * (busy - before) / (total - all_before), 2)
        return out


def _ticks() -> tuple[int, int]:
    """Clock ticks since boot, of all processors: busy, and in all (proc(5), /proc/stat)."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(number) for number in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return sum(ticks) - sum(ticks[3:5]), sum(ticks)  # idle and iowait are not busy


def process() -> dict[str, float]:
    """Return memory, threads and load, under W&B's names where it has some; {} where there is no /proc."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        lines = Path("/proc/meminfo").read_text().splitlines()
        known = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines[:6] if line.startswith("Mem")}
        rss, all_of_it, available = int(fields[21]) * _PAGE / _MIB, known["MemTotal"], known["MemAvailable"]
    except (OSError, ValueError, LookupError):
        return {}
    return {
        "memory_percent": round(100.0 * (1.0 - available / all_of_it), 2),
        "proc.memory.rssMB": round(rss, 1),
        "proc.memory.percent": round(100.0 * rss / all_of_it, 2),
        "proc.memory.availableMB": round(available, 1),
        "proc.cpu.threads": float(fields[17]),
        "load": round(os.getloadavg()[0], 2),
    }


_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Gpus:
    """
    The NVIDIA GPUs that this process may use, through the driver's own library (NVML); none until they are opened.

    Makes no CUDA context, and changes nothing.
    """

    def __init__(self) -> None:
        self._nvml: ctypes.CDLL | None = None
        self._handles: dict[int, ctypes.c_void_p] = {}

    def open(self, environ: Mapping[str, str] = os.environ) -> None:
        try:
            self._nvml = nvml = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return  # no NVIDIA driver here
        if nvml.nvmlInit_v2():
            return
        for handle in self._visible(nvml, environ.get("CUDA_VISIBLE_DEVICES")):
            index = ctypes.c_uint()
            if nvml.nvmlDeviceGetIndex(handle, ctypes.byref(index)) == 0:
                self._handles[index.value] = handle

    @staticmethod
    def _visible(nvml: ctypes.CDLL, chosen: str | None) -> Iterator[ctypes.c_void_p]:
        """The devices that CUDA_VISIBLE_DEVICES names, by number or UUID, up to the first that there is not."""
        if chosen is None:
            count = ctypes.c_uint()
            nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
            chosen = ",".join(map(str, range(count.value)))
        for word in filter(None, chosen.replace(" ", "").split(",")):
            handle = ctypes.c_void_p()
            if word.isdigit():
                failed = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(word)), ctypes.byref(handle))
            else:
                failed = nvml.nvmlDeviceGetHandleByUUID(word.encode(), ctypes.byref(handle))
            if failed:
                return
            yield handle

    def facts(self) -> dict[str, object]:
        """Return how many they are and what the first is called; {} before they are opened, and without any."""
        if self._nvml is None or not self._handles:
            return {}
        name = ctypes.create_string_buffer(96)
        self._nvml.nvmlDeviceGetName(next(iter(self._handles.values())), name, ctypes.c_uint(len(name)))
        return {"gpu_count": len(self._handles), "gpu_type": name.value.decode(errors="replace")}

    def read(self) -> dict[str, float]:
        """Return what each does, under W&B's names; what a device does not tell is left out."""
        out: dict[str, float] = {}
        if self._nvml is None:
            return out
        used, memory, number = _Utilization(), _Memory(), ctypes.c_uint()
        for index, handle in self._handles.items():
            if self._nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(used)) == 0:
                out[f"gpu.{index}.gpu"], out[f"gpu.{index}.memory"] = float(used.gpu), float(used.memory)
            if self._nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0 and memory.total:
                out[f"gpu.{index}.memoryAllocated"] = round(100.0 * memory.used / memory.total, 2)
                out[f"gpu.{index}.memoryAllocatedBytes"] = float(memory.used)
            if self._nvml.nvmlDeviceGetTemperature(handle, 0, ctypes.byref(number)) == 0:
                out[f"gpu.{index}.temp"] = float(number.value)
            if self._nvml.nvmlDeviceGetPowerUsage(handle, ctypes.byref(number)) == 0:
                out[f"gpu.{index}.powerWatts"] = number.value / 1000
        return out
