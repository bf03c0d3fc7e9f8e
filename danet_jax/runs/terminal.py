"""Shows progress: live lines at the bottom of a terminal, plain lines in a log file."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
from rich.table import Column, Table
from rich.text import Text

Item = TypeVar("Item")
Update = Callable[..., None]

_SECONDS_BETWEEN_LINES = 600.0
"""Seconds between two progress lines in a log file."""

_SECONDS_OF_SPEED = 600.0
"""Seconds over which the speed is averaged to estimate the remaining time: one step or evaluation can take minutes."""

_progress: Progress | None = None
_depth = 0
"""The number of nested contexts of `shown` that are active without live lines."""


def is_terminal() -> bool:
    """Returns whether stderr is a terminal, so that live lines are shown."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def shown(
    text: str,
    total: float | None = None,
    *,
    start: int = 0,
    unit: str = "",
    logged: bool = True,
    enabled: bool = True,
) -> Iterator[Update]:
    """Shows on stderr, within this context, that a task is in progress.

    A terminal shows a live line with `text`, the time, and a bar if `total` is given. Within another context that has
    no bar, the line replaces that context's line. A log file gets `text` once, but only within another context:
    everything that `run.py` does is in one, whereas the package prints nothing when it is used as a library.

    Args:
      text: describes the task.
      total: the amount of work; None if it is not known.
      start: the amount of work that is done already.
      unit: the unit of the work, such as "images". If it is given, the rate is shown too.
      logged: whether the line is written to log files.
      enabled: whether anything is shown. Only one of several hosts shows progress.

    Yields:
      A function `update(done, words)` that sets the amount of work done and, optionally, the words to show after the
      bar. As many words are shown as fit into the terminal.
    """
    global _progress, _depth
    if not enabled or not is_terminal():
        if enabled and logged and _depth:
            line = text if total is None else f"{text}, {total:g} {unit}".rstrip()
            print(line, file=sys.stderr, flush=True)
        _depth += 1
        try:
            yield lambda *_: None
        finally:
            _depth -= 1
        return
    outermost = _progress is None
    progress = _progress = _progress or _new_progress()
    outer = [task for task in progress.tasks if task.total is None and task.visible]
    for task in outer:
        progress.update(task.id, visible=False)
    row = progress.add_task(text, total=total, completed=start, start_of=start, unit=unit, words=())

    def update(done: float, words: Sequence[str] | None = None) -> None:
        progress.update(row, completed=done)
        if words is not None:
            progress.update(row, words=words)

    try:
        if outermost:
            progress.start()
        yield update
    finally:
        progress.remove_task(row)
        for task in outer:
            progress.update(task.id, visible=True)
        if outermost:
            progress.stop()
            _progress = None


def watched(
    items: Iterable[Item], text: str, total: int | None = None, *, unit: str = "images", enabled: bool = True
) -> Iterator[Item]:
    """Yields `items`, and shows their number and rate on stderr; see `shown` for the arguments."""
    since = latest = time.perf_counter()
    with shown(text, total, unit=unit, enabled=enabled) as update:
        for done, item in enumerate(items, start=1):
            yield item
            update(done)
            now = time.perf_counter()
            if enabled and not is_terminal() and now - latest > _SECONDS_BETWEEN_LINES:
                count = f"{done}" if total is None else f"{done}/{total}"
                print(
                    f"{text}: {count} {unit}, {done / (now - since):.2f} {unit}/s",
                    file=sys.stderr,
                    flush=True,
                )
                latest = now


def print_table(table: Table, *, fits: bool = True) -> None:
    """Prints a table, fitted to the width of the terminal if `fits`, otherwise at full width."""
    console = Console(highlight=False)
    if not (fits and console.is_terminal):
        console = Console(width=max(Console(width=10_000).measure(table).maximum, 1), highlight=False)
    with console.capture() as captured:
        console.print(table)
    # `print` is redirected above the live lines; this console does not know about them.
    print(captured.get(), end="", flush=True)


def _new_progress() -> Progress:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    # The cursor is never hidden, because a process that is ended by a second signal could not show it again.
    console.show_cursor = lambda show=True: False  # type: ignore[method-assign]
    return Progress(
        SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"),
        _Description(Column(no_wrap=True)),
        _Bar(bar_width=20),
        _Time(Column(no_wrap=True)),
        _Words(),
        console=console,
        transient=True,
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        speed_estimate_period=_SECONDS_OF_SPEED,
    )


class _Description(ProgressColumn):
    def render(self, task: Task) -> Text:
        count = f" {task.completed:.0f}/{task.total:.0f}" if task.total is not None else ""
        if not count and task.fields["unit"]:
            count = f" {task.completed:.0f}"
        return Text(f"{task.description}{count} {task.fields['unit']}".rstrip())


class _Bar(BarColumn):
    def render(self, task: Task) -> Any:
        return Text() if task.total is None else super().render(task)


class _Time(ProgressColumn):
    """The remaining time, or the elapsed time if the total is not known."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        seconds = task.elapsed if task.total is None else task.time_remaining
        clock = "-:--:--" if seconds is None else str(datetime.timedelta(seconds=int(seconds)))
        return Text(clock if task.total is None else f"{clock} left")


class _Words(ProgressColumn):
    """The rate and the words of a row."""

    def render(self, task: Task) -> _Fitting:
        words, unit = list(task.fields["words"]), task.fields["unit"]
        done = task.completed - task.fields["start_of"]
        if unit and done and task.elapsed:
            words.insert(0, f"{done / task.elapsed:.2f} {unit}/s")
        return _Fitting(words)


class _Fitting:
    """Renders as many words as fit into a line."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(0, len(" ".join(self._words)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = ""
        for word in self._words:
            if len(line) + bool(line) + len(word) > options.max_width:
                break
            line = f"{line} {word}".lstrip()
        yield Text(line, no_wrap=True)
