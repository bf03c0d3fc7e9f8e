"""Times of several functions in turns, memory that a function of PyTorch takes, and processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil


def seconds(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """The best time of each, taken in turns."""
    best = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def resident(process: int | None = None) -> float:
    """MiB that a process, by its number, holds in memory; None is this one."""
    return psutil.Process(process).memory_info().rss / 2**20


def in_own_process(script: str, *arguments: str) -> Any:
    """What `python -m benchmarks.NAME arguments` prints on its last line, as JSON; `script` is its `__file__`."""
    command = [sys.executable, "-m", f"benchmarks.{Path(script).stem}", *arguments]
    return json.loads(
        subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
    )


def torch_scratch(make: Callable[..., Callable[[], None]], *arguments: Any) -> float:
    """MiB that `make(*arguments)()` takes at its peak, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_growth, args=(sender, make, *arguments))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"{arguments} ended with status {process.exitcode}")
    return receiver.recv()


def _send_growth(connection: Any, make: Callable[..., Callable[[], None]], *arguments: Any) -> None:
    import torch

    run = make(*arguments)
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        run()
        connection.send((torch.cuda.max_memory_allocated() - before) / 2**20)
    else:
        # What libraries allocate once does not count.
        torch.ones(64, 64, requires_grad=True).mm(torch.ones(64, 64)).softmax(-1).sum().backward()
        before = peak_memory()
        run()
        connection.send(peak_memory() - before)


def peak_memory() -> float:
    """MiB that this process has held at most. (Of `getrusage`, a child process inherits its parent's peak.)"""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10
