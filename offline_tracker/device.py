"""
Scalars that are still being computed on a GPU: copied to the host without waiting for them.

``item()`` would stop the training until the device has caught up. Here the values of one call are copied into pinned memory
on the current stream, in which a later in-place change comes later, too. Whether they have come is seen in that memory
itself. An event would have to be asked, and cudaEventQuery breaks a CUDA graph that another thread is capturing just then.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

SENTINEL = 0x7FF8_DEAD_BEEF_C0DE
"""What stands in the memory until a value comes: as a float a NaN with a payload that no arithmetic makes."""
RING_WORDS = 8192
"""Values that may be on their way at once; where there are more, a larger ring is taken."""


class _Ring:
    """Pinned memory that is used over and over: to take it is slow, and may wait for the device."""

    def __init__(self, torch: Any, size: int) -> None:
        self.size = size
        with torch.inference_mode(False):  # else only who is in that mode could write to it
            self.whole = torch.empty(size, dtype=torch.int64, pin_memory=True)
            self.floats = self.whole.view(torch.float64)
        address = self.whole.data_ptr()
        if not address or type(self.whole) is not torch.Tensor:
            raise RuntimeError("there is no memory behind a fake tensor")
        # The same memory for the host, which so needs no torch to look at it.
        self.words = (ctypes.c_int64 * size).from_address(address)
        self._sent = 0  # words, ever
        self.done = 0

    def take(self, count: int) -> tuple[int, int] | None:
        """Return where *count* free words begin, and what `done` is to be once they are read; None while it is full."""
        start = self._sent % self.size
        skipped = self.size - start if start + count > self.size else 0
        if self._sent + skipped + count - self.done > self.size:
            return None
        self._sent += skipped + count
        start = 0 if skipped else start
        self.words[start : start + count] = [SENTINEL] * count
        return start, self._sent


class Pending:
    """The values of one call on their way from one device; read in the order in which they were sent."""

    def __init__(self, names: Sequence[str], kinds: str, ring: _Ring, start: int, end: int) -> None:
        self.names = names
        self._kinds = kinds  # of each value d (float), q (int) or ? (bool)
        self._ring = ring
        self._start = start
        self._end = end
        self._values: dict[str, float | int | bool] | None = None

    def read(self) -> dict[str, float | int | bool] | None:
        """Return the values, or None while one of them has not come. Never asks the device, never waits."""
        if self._values is not None:
            return self._values
        count = len(self.names)
        words = self._ring.words[self._start : self._start + count]  # of 8 bytes each, aligned: no copy tears one
        if SENTINEL in words:
            return None
        floats = struct.unpack(f"{count}d", struct.pack(f"{count}q", *words))
        of_kind = {"d": floats, "q": words, "?": [bool(word) for word in words]}
        self._values = {name: of_kind[self._kinds[at]][at] for at, name in enumerate(self.names)}
        self._ring.done = self._end  # from here on the memory may hold other values
        return self._values


class DeviceScalars:
    """Sends device scalars into pinned memory; `send` is called by one thread at a time."""

    def __init__(self) -> None:
        self._ring: _Ring | None = None

    def send(self, scalars: Mapping[str, Any]) -> list[Pending]:
        """
        Begin to copy tensors of one element, on the current stream of their device; returns one `Pending` a device.

        Raises:
            RuntimeError: there is nothing to copy now, or torch refuses.
        """
        torch = sys.modules["torch"]
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("a CUDA graph is being captured, there is no value yet; log after the replay")
        by_device: dict[Any, dict[str, Any]] = {}
        for name, value in scalars.items():
            by_device.setdefault(value.device, {})[name] = value
        with torch.no_grad():
            return [self._send(torch, group) for group in by_device.values()]

    def _send(self, torch: Any, scalars: dict[str, Any]) -> Pending:
        # Floats and whole numbers apart: neither type holds all values of the other. Among floats stack takes the
        # widest type, and the copy widens to 64 bits, on the device.
        floats = {name: value for name, value in scalars.items() if value.is_floating_point()}
        whole = {name: value for name, value in scalars.items() if name not in floats}
        ring, start, end = self._take(torch, len(scalars))
        middle = start + len(floats)
        if floats:
            ring.floats[start:middle].copy_(_together(torch, floats), non_blocking=True)
        if whole:
            ring.whole[middle : start + len(scalars)].copy_(_together(torch, whole), non_blocking=True)
        kinds = "d" * len(floats) + "".join("?" if value.dtype == torch.bool else "q" for value in whole.values())
        return Pending([*floats, *whole], kinds, ring, start, end)

    def _take(self, torch: Any, count: int) -> tuple[_Ring, int, int]:
        ring = self._ring
        taken = ring.take(count) if ring else None
        if ring is None or taken is None:
            # What is on its way keeps the old one alive.
            ring = self._ring = _Ring(torch, max(RING_WORDS, 2 * count, 2 * ring.size if ring else 0))
            taken = ring.take(count)
            assert taken is not None
        return ring, *taken


def _together(torch: Any, scalars: Mapping[str, Any]) -> Any:
    values = [value.reshape(()) if value.dim() else value for value in scalars.values()]
    return torch.stack(values) if len(values) > 1 else values[0].reshape(1)
