"""Measures everything of interest on a GPU with one command that takes a few minutes, next to PyTorch.

    python -m benchmarks.accelerator --output=h100.jsonl [--parts=convolution,attention,step,predict,loss]
    python -m benchmarks.accelerator --output=h100.jsonl --parts=camvid --camvid=PATH/camvid --weights=RESNET18
    python -m benchmarks.accelerator --tiny          a quick test of all parts on a CPU

The parts use bfloat16 and run next to PyTorch (channels_last, AMP) with the same numbers:

  convolution   dilated 3x3 convolutions, forward and both gradients: danet_jax, XLA's own, and in phases
  attention     position attention: the kernel that danet_jax chooses, its others, and torch's sdpa and bmm
  step          training steps of ResNet-50 and -101 at 768x768, with torch in eager mode and with torch.compile; peak
                memory is that of the process, which grows with the batch
  predict       an image of 1024x2048, from uint8 on the host to labels on the host, and the network alone
  loss          three classifiers at 768x768 with gradients, in float32
  camvid        a training run of two minutes and its mIoU, evaluated once more in float32 on the CPU

Every result is compared with that of PyTorch in float32 on the CPU before it is timed (`*_error` is the norm of the
difference, relative to the norm of the expected result). Each part consists of one or more processes. They all prepare
and compile at the same time and then use the device in turns, so that no process disturbs the timing of another. A line
is printed as soon as its numbers are known. After `--part-seconds`, the processes that are ready start even if others
still compile ("alone" is then false). A process that compiles for twice as long, or uses the device for as long, is
ended.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.accelerator_cases import FULL, TINY, Sizes

PARTS = ("convolution", "attention", "step", "predict", "loss", "camvid")


def commands(part: str, sizes: Sizes, only: str, camvid: list[str]) -> list[list[str]]:
    """Returns the module, function and arguments of each process of a part, in the order of their use of the device."""
    return [
        command for command in all_commands(part, sizes, camvid) if command[1].startswith((only, "reference"))
    ]


def all_commands(part: str, sizes: Sizes, camvid: list[str]) -> list[list[str]]:
    """Returns the processes of a part for both frameworks."""
    if part == "camvid":
        return [["jax", "jax_camvid", *camvid]]
    if part == "step":
        first = [[name, f"{name}_step", b] for b in sizes.backbones for name in ("jax", "torch")]
        last = [["torch", "torch_step", b, "compiled"] for b in sizes.backbones]
        return first + last + [["torch", "reference_step", b] for b in sizes.backbones]
    what = [sizes.backbones[0]] if part == "predict" else []
    return [
        [m, f"{w}_{part}", *what] for m, w in (("jax", "jax"), ("torch", "torch"), ("torch", "reference"))
    ]


class Process:
    """A process of a part, whose output lines go to a queue that all processes share."""

    def __init__(
        self, part: str, command: list[str], options: argparse.Namespace, lines: queue.Queue
    ) -> None:
        self.part, (module, *self.command) = part, command
        self.name = "_".join(Path(word).name for word in self.command)
        self.is_reference = self.command[0].startswith("reference")
        self.state, self.since = "preparing", time.monotonic()
        arguments = [*self.command, f"--folder={options.folder}", *(["--tiny"] if options.tiny else [])]
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if self.is_reference:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self.log = options.folder / f"{self.name}.log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.accelerator_{module}", *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def _read(self, lines: queue.Queue) -> None:
        for line in self.process.stdout:
            lines.put((self, line))
        self.process.wait()
        lines.put((self, ""))

    def go(self) -> None:
        """Lets the process use the device."""
        self.state, self.since = "measuring", time.monotonic()
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has just ended, as its last line will report

    def end(self) -> None:
        """Ends the process and its child processes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def last_words(self) -> str:
        """Prints the end of the process's standard error, and returns its last line."""
        log = self.log.read_text().strip()
        print(log[-3000:], file=sys.stderr, flush=True)
        return log.splitlines()[-1][:300] if log else f"ended with status {self.process.returncode}"


class Report:
    """Writes lines to the terminal and to a file."""

    def __init__(self, file: Path | None) -> None:
        self.stream = file.open("a") if file else None
        self.start = time.monotonic()

    def __call__(self, **row: Any) -> None:
        row = {"at": round(time.monotonic() - self.start), **row}
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        if self.stream:
            print(json.dumps(row), file=self.stream, flush=True)


def measure(processes: list[Process], lines: queue.Queue, limit: float, report: Report) -> bool:
    """Lets the processes use the device in turns; returns whether all of them succeeded."""
    whole = True
    while running := [p for p in processes if p.state != "ended"]:
        preparing = [p for p in running if p.state == "preparing"]
        late = time.monotonic() - min(p.since for p in running) > limit
        ready = [p for p in running if p.state == "ready"]
        if ready and (not preparing or late) and not any(p.state == "measuring" for p in running):
            ready[0].go()
        for process in running:
            allowed = {"preparing": 2 * limit, "measuring": limit}.get(process.state, float("inf"))
            if time.monotonic() - process.since > allowed:
                process.end()
        try:
            process, line = lines.get(timeout=0.5)
        except queue.Empty:
            continue
        if not line:
            process.state = "ended"
            if process.process.returncode:
                whole = False
                report(part=process.part, of=process.name, failed=process.last_words())
                for other in running if process.is_reference else ():
                    if other.part == process.part and other.command[1:2] == process.command[1:2]:
                        other.end()  # it waits for reference results that will never be written
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line was printed by a library
        if "ready" in row:
            process.state = "ready"
        else:
            report(part=process.part, of=process.name, alone=not preparing, **row)
    return whole


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas between")
    parser.add_argument("--part-seconds", type=float, default=120)
    parser.add_argument("--only", choices=["jax", "torch"], default="", help="one framework")
    parser.add_argument("--backbones", help="of the networks, with commas between")
    parser.add_argument("--output", type=Path, help="a file of JSON lines, to which is added")
    parser.add_argument("--camvid", help="its folder, images/ and labels/ in it; without it, drawn scenes")
    parser.add_argument("--weights", help="an ImageNet ResNet-18 for camvid to start from")
    parser.add_argument("--camvid-steps", type=int, help="of that run")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"--parts: {unknown[0]} does not exist; there are: {', '.join(PARTS)}")
    report = Report(options.output)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options.folder = Path(folder)
        sizes = TINY if options.tiny else FULL
        if options.backbones:
            sizes = dataclasses.replace(sizes, backbones=tuple(options.backbones.split(",")))
        camvid = [
            str(options.camvid_steps or sizes.camvid_steps),
            options.camvid or "",
            options.weights or "",
        ]
        lines: queue.Queue = queue.Queue()
        processes = [
            Process(p, c, options, lines) for p in parts for c in commands(p, sizes, options.only, camvid)
        ]
        try:
            return 0 if measure(processes, lines, options.part_seconds, report) else 1
        finally:
            for process in processes:
                process.end()


if __name__ == "__main__":
    sys.exit(main())
