"""How far an evaluation is: a bar in a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


def watched(
    examples: Iterable[T], total: int | None, *, enabled: bool = True, unit: str = "images"
) -> Iterator[T]:
    """Yields `examples`, and shows on stderr how many of `total`, if it is known, there were and how many a second."""
    import rich.console
    import rich.progress

    if not enabled:
        yield from examples
        return
    console = rich.console.Console(file=sys.stderr, highlight=False, soft_wrap=True)
    start = time.perf_counter()
    done, of = 0, "" if total is None else f"/{total}"
    if console.is_terminal:
        with rich.progress.Progress(
            rich.progress.TextColumn(f"{{task.completed}}{of} {unit}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn(f"{{task.fields[rate]:.2f}} {unit}/s,"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("left"),
            console=console,
        ) as progress:
            task = progress.add_task("evaluate", total=total, rate=0.0)
            for done, example in enumerate(examples, start=1):
                yield example
                progress.update(task, completed=done, rate=done / (time.perf_counter() - start))
        return
    shown = start
    for done, example in enumerate(examples, start=1):
        yield example
        now = time.perf_counter()
        if now - shown >= SECONDS_BETWEEN_LINES or done == total:
            console.print(f"{done}{of} {unit}, {done / (now - start):.2f} {unit}/s", markup=False)
            shown = now
