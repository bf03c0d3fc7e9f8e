"""Interrupts a training repeatedly, and compares its parameters with those of an uninterrupted one.

    python -m benchmarks.soak --cycles 20

Each cycle starts the same command and, after a random time, sends SIGTERM or SIGKILL, or fills the disk (if a small
tmpfs can be mounted, which requires root). No traceback may be printed. Finally, the run is completed, and its
parameters must equal those of an uninterrupted run, bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import random
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import jax
import numpy as np

from danet_jax import load_checkpoint

ROOT = pathlib.Path(__file__).parents[1]
KINDS = ("SIGTERM", "SIGKILL", "full disk")
STATUSES = {"SIGTERM": 143, "SIGKILL": -signal.SIGKILL, "full disk": 1}
MOUNTED = 1000
"""The size of the tmpfs in MiB, enough for about ten checkpoints of ResNet-18."""


def command(workdir: pathlib.Path, steps: int) -> list[str]:
    """Returns the command of a small training that saves often."""
    settings = {
        "dataset.options.height": 32,
        "dataset.options.width": 48,
        "dataset.options.train": 24,
        "dataset.options.val": 2,
        "dataset.data_dir": workdir.parent.with_name("data"),
        "dataset.base_size": 32,
        "dataset.crop_size": 32,
        "dataset.workers": 1,
        "training.batch_size": 2,
        "training.steps": steps,
        "training.learning_rate": 0.001,
        "training.checkpoint_every": 7,
        "training.evaluate_every": max(1, steps // 2),
        "training.log_every": 1,
        "model.output_stride": 32,
        "mesh.data": 1,
    }
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    config = f"--config={ROOT / 'configs' / 'quickstart.py'}"
    return [sys.executable, "-u", str(ROOT / "run.py"), config, f"--workdir={workdir}", *flags]


@contextlib.contextmanager
def disk(folder: pathlib.Path) -> Iterator[bool]:
    """Mounts a small tmpfs at `folder` if that is allowed; yields whether it was."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MOUNTED}m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def interrupted(workdir: pathlib.Path, steps: int, kind: str, after: int) -> tuple[int, str]:
    """Starts the run and disturbs it once its log has `after` lines.

    Returns:
      The exit status, and the last line of the output; the whole output if it contains a traceback.
    """
    ballast = workdir.parent / "ballast"
    process = subprocess.Popen(
        command(workdir, steps),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    last, lines, output = "", 0, ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            last, lines = line.rstrip(), lines + line.startswith("step")
            output += line
            if lines == after and line.startswith("step"):
                if kind == "full disk":
                    with contextlib.suppress(OSError), ballast.open("wb") as file:
                        while True:
                            file.write(bytes(1 << 20))
                else:
                    process.send_signal(signal.Signals[kind])
        return process.wait(), output if "Traceback" in output else last
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        ballast.unlink(missing_ok=True)


def soak(folder: pathlib.Path, cycles: int, steps: int, seed: int) -> bool:
    """Runs the cycles, and prints a line for each; returns whether all of them passed."""
    chance = random.Random(seed)
    right = True
    with disk(folder / "disk") as mounted:
        workdir = folder / "disk" / "run"
        kinds = KINDS if mounted else KINDS[:2]
        for cycle in range(cycles):
            kind = kinds[cycle % len(kinds)]
            status, last = interrupted(workdir, steps, kind, chance.randrange(1, 12))
            as_due = status == STATUSES[kind] or (status == 0 and "validation" in last)
            as_due &= "\n" not in last
            right &= as_due
            print(f"{cycle + 1:3} {kind:9} status {status:4} {'' if as_due else 'WRONG '}{last}", flush=True)
        status, last = interrupted(workdir, steps, "SIGTERM", -1)
        subprocess.run(command(folder / "whole" / "run", steps), stdout=subprocess.DEVNULL, check=True)
        ours, theirs = (load_checkpoint(path).variables for path in (workdir, folder / "whole" / "run"))
        equal = status == 0 and all(
            np.array_equal(a, b) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
        )
    print(f"{cycles} cycles: parameters {'equal' if equal else 'DIFFER'}")
    return right and equal


def main() -> None:
    """Runs the soak test, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(not soak(pathlib.Path(folder), arguments.cycles, arguments.steps, arguments.seed))


if __name__ == "__main__":
    main()
