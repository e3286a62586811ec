"""Time left, right across resumes: only what this process itself measured counts."""

from __future__ import annotations

import time


class Eta:
    """
    Seconds left of a training, from the current attempt's own times.

    MiniMind's formula divides the time since this process began by a step that includes those another process did, so
    after a resume it shows far too little. Here it is ``(now - t0) / (step - step0) * (total - step)``, with t0 and step0
    of this process; the downtime between two attempts never counts.

    Args:
        total_steps: steps of the whole training.
        start_step: steps that were done before this process; those of the checkpoint it went on from. None if that
            is not known: then the first update only begins the measurement.

    Example: ``eta = Eta(10_000, start_step=8_000)``, then ``eta.update(8_500)`` once in a while.
    """

    def __init__(self, total_steps: int, start_step: int | None = 0, start_time: float | None = None) -> None:
        self.total_steps = total_steps
        self._step = None if start_step is None else float(start_step)
        self._time = time.time() if start_time is None else start_time
        self._warm = False

    def update(self, step: float, now: float | None = None) -> float | None:
        """
        Return the seconds left after *step* steps are done, or None while nothing is known.

        Args:
            now: unix seconds; the present by default.
        """
        now = time.time() if now is None else now
        if self._step is None:
            self._warm, self._step, self._time = True, step, now
        done, left = step - self._step, max(0.0, self.total_steps - step)
        if done <= 0:
            return 0.0 if left == 0 else None
        seconds = (now - self._time) / done * left
        if not self._warm:
            # The first stretch holds the start (imports, compilation, data): it gives the first answer, no later one.
            self._warm, self._step, self._time = True, step, now
        return max(0.0, seconds)
