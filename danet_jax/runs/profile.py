"""A trace of some steps of training, by JAX's profiler, for TensorBoard and xprof."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import jax


class Profile:
    """Traces the steps from `steps[0]` to `steps[1]`, both included, into `folder/plugins/profile`; () traces none."""

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        self._folder, self._steps, self._running = folder, steps, False

    def before(self, step: int) -> None:
        """To be called before a step is started."""
        if self._steps and not self._running and self._steps[0] <= step <= self._steps[1]:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, result: Any) -> None:
        """To be called after it was; waits for `result` where the trace ends."""
        if self._running and step >= self._steps[1]:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        self._running = False
        jax.profiler.stop_trace()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends a trace that training did not reach the end of."""
        if self._running:
            self._stop()
