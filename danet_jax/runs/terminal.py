"""What is being done and how far it is: moving lines at the bottom of a terminal, plain lines in a log file."""

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
"""In log files."""

_SECONDS_OF_SPEED = 600.0
"""The remaining time follows from the speed in this time: steps and evaluations can take minutes."""

_progress: Progress | None = None
_depth = 0
"""The number of contexts of `shown` around what runs now, where nothing moves."""


def is_terminal() -> bool:
    """Returns whether moving lines are shown: stderr is a terminal."""
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
    """A context in which stderr shows that something is being done.

    A terminal shows a moving line with `text`, the time, and a bar if `total` is known. Within another context without
    a bar, the line takes the place of the other one. A log file gets `text` once, but only within another context: all
    that `run.py` does is in one, and the package as a library prints nothing.

    Args:
      text: what is being done.
      total: how much there is to do; None is not known.
      start: how much of it is done already.
      unit: what is counted, such as "images"; its rate is shown too.
      logged: whether log files get the line.
      enabled: whether anything is shown; on one of several hosts it is.

    Yields:
      A function `update(done, words)` that sets how much is done and, if it is given them, what is shown behind the
      bar: as many of the words as the terminal has room for.
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
    items: Iterable[Item],
    text: str,
    total: int | None = None,
    *,
    unit: str = "images",
    enabled: bool = True,
) -> Iterator[Item]:
    """Yields `items`, and shows on stderr how many of `total` there were and how many a second; see `shown`."""
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
    """Prints a table, fitted to the terminal if `fits`, otherwise as wide as it needs."""
    console = Console(highlight=False)
    if not (fits and console.is_terminal):
        console = Console(width=max(Console(width=10_000).measure(table).maximum, 1), highlight=False)
    with console.capture() as captured:
        console.print(table)
    print(captured.get(), end="", flush=True)  # above moving lines, which another console would not know of


def _new_progress() -> Progress:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    # A process that is ended by a second signal could not show the cursor again.
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
    """The remaining time, or that since the start where the end is not known."""

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
    """As many words as a line has room for."""

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
