"""SIGTERM, SIGINT and SIGHUP: a run that is told to stop saves where it stands, on all hosts together, and says so."""

from __future__ import annotations

import collections
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
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.runs.hosts import end_others

Item = TypeVar("Item")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Of a scheduler, of Ctrl-C, of a terminal that is closed."""

_GRACE = 8.0
"""Seconds after a signal in which compiled code, which no signal interrupts, may come back by itself."""

_SAME = 0.3
"""Seconds in which signals count as one: a scheduler tells all processes, and a parent passes it on to its child."""

_BEHIND = 1
"""Steps that the hosts are ahead of their agreement to stop, so that none waits for its devices."""


def take_up(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Sets the handler of `SIGNALS`, of SIGHUP unless `nohup` said that it means nothing; returns those before."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {
        number: signal.signal(number, handler)
        for number in SIGNALS
        if not (number == signal.SIGHUP and ignored)
    }


class Stopped(BaseException):
    """A signal came where nothing is lost by ending at once. Not an `Exception`, so that nothing takes it for one."""


class StopSignals:
    """Takes up SIGTERM, SIGINT and SIGHUP as a context.

    Outside of `between_steps` the first signal raises `Stopped`, which ends the context; within, it is noted, and
    `agreed` tells the loop. What takes too long for that, such as compilation, is ended by a thread when `is_safe` says
    that nothing is lost. A second signal ends the process at once; a checkpoint that is being written is then not
    taken for one. Call it in the main thread; in others, it takes up nothing.

    Attributes:
      standing: where the run stands, in words; said when it is ended.
      is_safe: whether the process may be ended as it is.
    """

    def __init__(self) -> None:
        self.standing = "before the first step; the same command starts again"
        self.is_safe: Callable[[], bool] = lambda: True
        self._signal = 0
        self._between_steps = False
        self._taken_up = False
        self._together = False
        self._repeated = 0
        self._old_handlers: dict[signal.Signals, Any] = {}
        self._old_hook: Callable[[Any], Any]
        self._asked: collections.deque[jax.Array] = collections.deque()
        self._largest: tuple[NamedSharding, Callable[[jax.Array], jax.Array]] | None = None

    @property
    def status(self) -> int:
        """To end the process with: 143 after SIGTERM, 130 after SIGINT, 129 after SIGHUP, 0 without a signal."""
        return 128 + self._signal if self._signal else 0

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self._signal).name} {self.standing}"

    @contextlib.contextmanager
    def between_steps(self) -> Iterator[None]:
        """Within it, a signal waits until `agreed` is asked for."""
        self._between_steps = True
        try:
            yield
        finally:
            self._between_steps = False
        if self._signal:
            raise Stopped

    def interrupting(self, items: Iterable[Item]) -> Iterator[Item]:
        """`items`, until a signal raises `Stopped` between two of them."""
        for item in items:
            if self._signal:
                raise Stopped
            yield item

    def agreed(self) -> bool:
        """Whether to stop after this step, which is the same on all hosts. To be asked after each step, by all."""
        self._taken_up = bool(self._signal)
        if jax.process_count() == 1:
            return self._taken_up
        mine = np.asarray([self._signal], np.int32)
        sharding, largest = self._over_hosts()
        self._asked.append(
            largest(jax.make_array_from_process_local_data(sharding, mine, (jax.process_count(),)))
        )
        if len(self._asked) <= _BEHIND:
            return False
        agreed = int(self._asked.popleft())
        self._signal = agreed or self._signal
        self._together = bool(agreed)
        return self._together

    def _over_hosts(self) -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
        if self._largest is None:
            devices = {device.process_index: device for device in reversed(jax.devices())}
            mesh = Mesh(np.asarray([devices[host] for host in sorted(devices)]), ("hosts",))
            everywhere = NamedSharding(mesh, PartitionSpec())
            self._largest = (
                NamedSharding(mesh, PartitionSpec("hosts")),
                jax.jit(jnp.max, out_shardings=everywhere),
            )
        return self._largest

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._old_handlers = take_up(self._handle)
            # Python's handlers wait for compiled code to come back; bytes in this pipe do not.
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
        if kind is Stopped and jax.process_count() > 1 and not self._together:
            self._end_alone()
        return kind is Stopped

    def _end_alone(self) -> None:
        """Ends this process, and those of other hosts, which would wait for it."""
        end_others(f"was stopped by {signal.Signals(self._signal).name}", self.status)
        print(self, flush=True)
        os._exit(self.status)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signal = self._signal or number
        if not self._between_steps:
            raise Stopped

    def _repeat(self, unraisable: Any) -> None:
        """Gives the signal once more that came where Python ignores exceptions, as in a garbage collection."""
        if unraisable.exc_type is not Stopped:
            self._old_hook(unraisable)
            return
        self._repeated += 1
        threading.Timer(0.05, os.kill, (os.getpid(), self._signal)).start()

    def _watch(self) -> None:
        """Ends the process on the second signal, or when the first was not taken up and nothing is lost by it."""
        number = self._next_signal(None)
        if number is None:
            return
        first = time.monotonic()
        while True:
            second = self._next_signal(max(0.1, first + _GRACE - time.monotonic()))
            if second is None:
                return
            waited = time.monotonic() - first
            if second and waited > _SAME:
                os._exit(128 + second)
            if waited >= _GRACE and not self._taken_up and self.is_safe():
                self._signal = self._signal or number  # Python's handler waits for compiled code
                self._end_alone()

    def _next_signal(self, seconds: float | None) -> int | None:
        """The number of the next signal; 0 when none comes in so many seconds, None when the context ends."""
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
