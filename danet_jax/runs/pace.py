"""Measures how fast a run trains, and traces some of its steps with JAX's profiler."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import jax


class Pace:
    """Measures the training speed since the last call of `restart`.

    Args:
      images_per_step: the number of images per step on all hosts together.
      peak: the peak throughput of all devices together in floating-point operations per second; None if unknown.

    Attributes:
      peak: the argument `peak`.
      flops: the number of floating-point operations per step; None if unknown.
    """

    def __init__(self, images_per_step: int, peak: float | None) -> None:
        self.peak = peak
        self.flops: float | None = None
        self._images_per_step = images_per_step
        self.restart()

    def restart(self) -> None:
        """Resets the counters."""
        self._steps, self._waited, self._since = 0, 0.0, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time within this context as waiting for data."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    def step(self) -> None:
        """Counts one step."""
        self._steps += 1

    def values(self, *, compiled: bool) -> dict[str, float]:
        """Returns the rates for the log.

        Args:
          compiled: whether a step was compiled since `restart`. The time per step is then omitted.
        """
        elapsed = time.perf_counter() - self._since
        found = {
            "images_per_second": self._steps * self._images_per_step / elapsed,
            "waiting_for_data": self._waited / elapsed,
        }
        if not compiled:
            found["seconds_per_step"] = elapsed / self._steps
            if self.flops and self.peak:
                found["flops_utilisation"] = self.flops * self._steps / elapsed / self.peak
        return found


class Profile:
    """Traces training steps with JAX's profiler, for TensorBoard and XProf.

    Args:
      folder: the folder whose `plugins/profile` receives the trace.
      steps: the first and the last step to trace; `()` disables tracing.
    """

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        self._folder, self._steps, self._running = folder, steps, False

    def before(self, step: int) -> None:
        """Starts the trace if `step`, which is about to start, is the first one to trace."""
        if self._steps and not self._running and self._steps[0] <= step <= self._steps[1]:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, result: Any) -> None:
        """Waits for `result` and stops the trace if `step` is the last one to trace."""
        if self._running and step >= self._steps[1]:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        self._running = False
        jax.profiler.stop_trace()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops the trace if training ended before the last step to trace."""
        if self._running:
            self._stop()
