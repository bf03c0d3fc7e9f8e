"""How fast a run trains between two lines of its log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Pace:
    """Counts the steps and seconds since `restart`.

    Args:
      images_per_step: of all hosts.

    Attributes:
      peak: floating-point operations per second that the devices can do together; None where that is not known.
      flops: floating-point operations of one step; None likewise.
    """

    def __init__(self, images_per_step: int, peak: float | None) -> None:
        self.peak = peak
        self.flops: float | None = None
        self._images_per_step = images_per_step
        self.restart()

    def restart(self) -> None:
        """From here on."""
        self._steps, self._waited, self._since = 0, 0.0, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Within it, the run waits for data."""
        asked = time.perf_counter()
        yield
        self._waited += time.perf_counter() - asked

    def step(self) -> None:
        """A step was started."""
        self._steps += 1

    def values(self, *, compiled: bool) -> dict[str, float]:
        """The rates for the log; without those of a step when one was compiled in this time."""
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
