"""Measures the time of several functions in turns and the memory of processes, and runs benchmarks in processes."""

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
    """Returns the best time of each function in seconds, measured in turns."""
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
    """Returns the resident memory in MiB of the process with this id; None stands for this process."""
    return psutil.Process(process).memory_info().rss / 2**20


def in_own_process(script: str, *arguments: str) -> Any:
    """Runs `python -m benchmarks.NAME arguments`, whose `__file__` is `script`, and returns its last line as JSON."""
    command = [sys.executable, "-m", f"benchmarks.{Path(script).stem}", *arguments]
    return json.loads(
        subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
    )


def torch_scratch(make: Callable[..., Callable[[], None]], *arguments: Any) -> float:
    """Returns the memory in MiB that `make(*arguments)()` takes at its peak, in a process of its own."""
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
        # Run an operation first, so that what libraries allocate only once is not counted.
        torch.ones(64, 64, requires_grad=True).mm(torch.ones(64, 64)).softmax(-1).sum().backward()
        before = peak_memory()
        run()
        connection.send(peak_memory() - before)


def peak_memory() -> float:
    """Returns the peak memory of this process in MiB, which `getrusage` would inherit from the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10
