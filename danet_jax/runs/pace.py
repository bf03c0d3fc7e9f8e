"""How fast a run trains: rates for the log, and a trace of some steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import jax


class Pace:
    """Counts the steps and seconds since `restart`.

    Args:
      images_per_step: the number of images of a step, of all hosts together.

    Attributes:
      peak: floating-point operations per second that the devices can do together; None if unknown.
      flops: floating-point operations of one step; None if unknown.
    """

    def __init__(self, images_per_step: int, peak: float | None) -> None:
        self.peak = peak
        self.flops: float | None = None
        self._images_per_step = images_per_step
        self.restart()

    def restart(self) -> None:
        """Starts counting from here."""
        self._steps, self._waited, self._since = 0, 0.0, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Within this context, the run waits for data."""
        asked = time.perf_counter()
        yield
        self._waited += time.perf_counter() - asked

    def step(self) -> None:
        """Counts a step that was started."""
        self._steps += 1

    def values(self, *, compiled: bool) -> dict[str, float]:
        """Returns the rates for the log; those of a step only if no step was compiled in this time."""
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
    """Traces steps with JAX's profiler, for TensorBoard and xprof.

    Args:
      folder: the trace is written to `folder/plugins/profile`.
      steps: the first and the last step to trace; () traces none.
    """

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        self._folder, self._steps, self._running = folder, steps, False

    def before(self, step: int) -> None:
        """Starts the trace if `step`, which starts next, is the first to trace."""
        if self._steps and not self._running and self._steps[0] <= step <= self._steps[1]:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, result: Any) -> None:
        """Ends the trace if `step`, whose `result` is waited for, is the last to trace."""
        if self._running and step >= self._steps[1]:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        self._running = False
        jax.profiler.stop_trace()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends a trace whose last step was not reached."""
        if self._running:
            self._stop()
