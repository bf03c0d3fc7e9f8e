"""Handles the signals that stop a run: all hosts save after the same step, and the run reports how far it is."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, Self, TypeVar

import jax
from jax.experimental import multihost_utils

from danet_jax.runs.hosts import leave

Item = TypeVar("Item")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Signals sent by a scheduler, by Ctrl-C, by closing the terminal, and by SLURM's `--signal=USR1@60`."""

_GRACE_PERIOD = 8.0
"""Seconds after a signal in which compiled code, which signals cannot interrupt, may return."""

_DEBOUNCE = 0.3
"""Seconds within which signals count as one. A scheduler may signal all processes while a parent also passes the signal
on to its child."""


class Stopped(BaseException):
    """Raised when a signal arrives while nothing is lost by stopping immediately.

    It is not an `Exception`, so that `except Exception` does not catch it.
    """


class StopSignals:
    """A context manager that handles `SIGNALS`.

    Outside of `between_steps`, the first signal raises `Stopped`, which ends the context. Within `between_steps`, the
    signal is recorded, and `agreed` reports it to the loop. Where Python cannot raise an exception, for example during
    compilation, a thread ends the process if `is_safe` returns True. A second signal ends the process immediately; a
    checkpoint that is being written then is discarded when the run resumes. Signals are handled only in the main
    thread; in other threads the context has no effect.

    When several hosts train together, JAX handles SIGTERM and makes all hosts stop after the same step. The other
    signals are then raised again as SIGTERM.

    Args:
      together: whether this is one of several hosts that train together.

    Attributes:
      progress: a phrase that says how far the run is; printed when the run is stopped.
      is_safe: a function that returns whether the process may be ended without losing anything.
    """

    def __init__(self, *, together: bool = False) -> None:
        self.progress = "before the first step; the same command starts again"
        self.is_safe: Callable[[], bool] = lambda: True
        self._together = together
        self._signal = 0
        self._sync_points = 0
        self._between_steps = False
        self._stop_agreed = False
        self._repeated = 0
        self._old_handlers: dict[signal.Signals, Any] = {}

    @property
    def status(self) -> int:
        """The exit status: 143 after SIGTERM or SIGUSR1, 130 after SIGINT, 129 after SIGHUP, 0 without a signal."""
        return _status(self._signal) if self._signal else 0

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self._signal).name} {self.progress}"

    @contextlib.contextmanager
    def between_steps(self) -> Iterator[None]:
        """Defers signals within this context until `agreed` is called."""
        self._between_steps = True
        try:
            yield
        finally:
            self._between_steps = False
        if self._stop_agreed or self._interrupts():
            raise Stopped

    def interrupting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yields `items`, and raises `Stopped` between two of them after a signal.

        When several hosts train together, signals do not interrupt the iteration.
        """
        for item in items:
            if self._interrupts():
                raise Stopped
            yield item

    def agreed(self) -> bool:
        """Returns whether to stop after this step; the value is the same on all hosts.

        All hosts must call it after each step.
        """
        if self._together:
            # JAX's protocol counts from 0 in every process, even if the run is resumed.
            self._sync_points += 1
            self._stop_agreed = multihost_utils.reached_preemption_sync_point(self._sync_points)
            self._signal = self._signal or (signal.SIGTERM if self._stop_agreed else 0)
        else:
            self._stop_agreed = bool(self._signal)
        return self._stop_agreed

    def _interrupts(self) -> bool:
        return bool(self._signal) and not self._together

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                jax_handles_it = self._together and number == signal.SIGTERM
                nohup = number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
                if not (jax_handles_it or nohup):
                    self._old_handlers[number] = signal.signal(number, self._handle)
            # Python runs its handlers only after compiled code returns, but writes to this pipe immediately.
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._old_wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._old_hook, sys.unraisablehook = sys.unraisablehook, self._repeat
            self._thread = threading.Thread(target=self._watch, daemon=True, name="signals")
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> bool:
        if self._old_handlers:
            signal.set_wakeup_fd(self._old_wakeup)
            for number, handler in self._old_handlers.items():
                signal.signal(number, handler)
            sys.unraisablehook = self._old_hook
            os.write(self._write, b"\0")
            self._thread.join()
            os.close(self._read)
            os.close(self._write)
        if kind is Stopped and not self._together and jax.distributed.is_initialized():
            print(self, flush=True)
            leave(self.status)
        return kind is Stopped

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signal = self._signal or number
        if self._together:
            signal.raise_signal(signal.SIGTERM)
        elif not self._between_steps:
            raise Stopped

    def _repeat(self, unraisable: Any) -> None:
        """Repeats a signal that arrived where Python ignores exceptions, as during garbage collection."""
        if unraisable.exc_type is not Stopped:
            self._old_hook(unraisable)
            return
        self._repeated += 1
        threading.Timer(0.05, os.kill, (os.getpid(), self._signal)).start()

    def _watch(self) -> None:
        """Ends the process on the second signal, or if nothing handled the first one and it is safe to end."""
        number = self._next_signal(None)
        if number is None:
            return
        first = time.monotonic()
        while (second := self._next_signal(max(0.1, first + _GRACE_PERIOD - time.monotonic()))) is not None:
            waited = time.monotonic() - first
            if second and waited > _DEBOUNCE:
                os._exit(_status(second))
            if waited >= _GRACE_PERIOD and not (self._together or self._stop_agreed) and self.is_safe():
                self._signal = self._signal or number  # Python's handler may still wait for compiled code.
                print(self, flush=True)
                os._exit(self.status)

    def _next_signal(self, seconds: float | None) -> int | None:
        """Returns the number of the next signal, 0 if none arrives within `seconds`, or None when the context ends."""
        while True:
            ready, _, _ = select.select([self._read], [], [], seconds)
            if not ready:
                return 0
            number = os.read(self._read, 1)[0]
            if number == 0:
                return None
            if number in SIGNALS and self._repeated:
                self._repeated -= 1
            elif number in SIGNALS:
                return number


def _status(number: int) -> int:
    return 128 + (signal.SIGTERM if number == signal.SIGUSR1 else number)
