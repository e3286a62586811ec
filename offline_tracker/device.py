"""
Scalars that are still being computed on a GPU: copied to the host without waiting for them.

``item()`` would stop the training until the device has caught up. Here the values of one call are gathered on the current
stream into one tensor (which is the copy: a later in-place change does not reach it) and sent into pinned memory. Whether
they have come is seen in that memory itself. An event would have to be asked, and cudaEventQuery from another thread
breaks a CUDA graph that is being captured just then.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping
from typing import Any

SENTINEL = 0x7FF8_DEAD_BEEF_C0DE
"""What stands in the memory until a value comes: as a float a NaN with a payload that no arithmetic makes."""
RING_WORDS = 8192
"""Values that may be on their way at once; where there are more, a larger ring is taken."""


def on_device(value: Any) -> bool:
    """Return whether reading *value* would wait for a GPU."""
    return getattr(value, "is_cuda", False) is True


class _Ring:
    """Pinned memory that is used over and over: to take it is slow, and may wait for the device."""

    def __init__(self, torch: Any, size: int) -> None:
        self.size = size
        self._memory = torch.empty(size, dtype=torch.int64, pin_memory=True)
        self._sent = 0  # words, ever
        self.done = 0

    def take(self, count: int) -> tuple[Any, int] | None:
        """Return *count* words in a row, and what `done` is to be once they are read; None while it is full."""
        start = self._sent % self.size
        skipped = self.size - start if start + count > self.size else 0
        if self._sent + skipped + count - self.done > self.size:
            return None
        self._sent += skipped + count
        memory = self._memory[0 if skipped else start :][:count]
        memory.fill_(SENTINEL)
        return memory, self._sent


class Pending:
    """The values of one call on their way from one device; read in the order in which they were sent."""

    def __init__(self, names: list[str], kinds: str, memory: Any, ring: _Ring, end: int) -> None:
        self.names = names
        self._kinds = kinds  # of each value d (float), q (int) or ? (bool)
        self._memory = memory
        self._ring = ring
        self._end = end
        self._values: dict[str, float | int | bool] | None = None

    def read(self) -> dict[str, float | int | bool] | None:
        """Return the values, or None while one of them has not come. Never asks the device, never waits."""
        if self._values is not None:
            return self._values
        words: list[int] = self._memory.tolist()  # of 8 bytes each, aligned: no copy tears one
        if SENTINEL in words:
            return None
        floats = struct.unpack(f"{len(words)}d", struct.pack(f"{len(words)}q", *words))
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
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("a CUDA graph is being captured, there is no value yet; log after the replay")
        by_device: dict[Any, dict[str, Any]] = {}
        for name, value in scalars.items():
            by_device.setdefault(value.device, {})[name] = value
        # Memory that was first filled under inference_mode could not be filled outside of it.
        with torch.inference_mode(False), torch.no_grad():
            return [self._send(torch, group) for group in by_device.values()]

    def _send(self, torch: Any, scalars: dict[str, Any]) -> Pending:
        plain = {name: value.detach().reshape(()) for name, value in scalars.items()}
        floats = {name: value.to(torch.float64) for name, value in plain.items() if value.is_floating_point()}
        whole = {name: value.to(torch.int64) for name, value in plain.items() if name not in floats}
        words = [torch.stack([*floats.values()]).view(torch.int64)] if floats else []
        words += [torch.stack([*whole.values()])] if whole else []
        kinds = "d" * len(floats) + "".join("?" if plain[name].dtype == torch.bool else "q" for name in whole)
        taken = self._ring.take(len(plain)) if self._ring else None
        if self._ring is None or taken is None:
            # What is on its way keeps the old ring alive.
            self._ring = _Ring(torch, max(RING_WORDS, 2 * len(plain), 2 * self._ring.size if self._ring else 0))
            taken = self._ring.take(len(plain))
            assert taken is not None
        memory, end = taken
        memory.copy_(words[0] if len(words) == 1 else torch.cat(words), non_blocking=True)
        return Pending([*floats, *whole], kinds, memory, self._ring, end)
