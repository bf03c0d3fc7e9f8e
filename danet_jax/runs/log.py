"""Logs the progress of training: to the terminal, to metrics.jsonl and to TensorBoard files."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from danet_jax.errors import InputError
from danet_jax.runs import terminal
from danet_jax.runs.files import is_bucket, replacing

_METRICS = "metrics.jsonl"
_COPIES_EVERY = 30.0  # Seconds between two copies of the log to a bucket.

# The terminal shows only these values; the files contain all of them.
_SHOWN = (
    "loss",
    "learning_rate",
    "alpha",
    "beta",
    "attention_spread",
    "attention_entropy",
    "images_per_second",
    "seconds_per_step",
    "waiting_for_data",
    "flops_utilisation",
)


class TrainingLog:
    """Logs scalars by step, with a progress bar in a terminal and as plain lines otherwise.

    Args:
      folder: the run's directory.
      steps: the total number of training steps.
      start: the step from which training resumes; entries of later steps are dropped.
      enabled: whether to log anything. Only one of several hosts logs.
    """

    def __init__(self, folder: Path, *, steps: int, start: int, enabled: bool = True) -> None:
        self._enabled = enabled
        if not enabled:
            return
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._bucket = folder if is_bucket(folder) else None
        if self._bucket is not None:  # Objects cannot be appended to, so local files are copied there.
            folder = Path(tempfile.mkdtemp(prefix="danet_jax_log"))
            if (earlier := self._bucket / _METRICS).exists():
                (folder / _METRICS).write_bytes(earlier.read_bytes())
        self._folder, self._copied = folder, time.monotonic()
        file = folder / _METRICS
        _drop_lines_after(file, start)
        self._stream = file.open("a")
        (folder / "tensorboard").mkdir(exist_ok=True)
        # `SummaryWriter` writes in a thread, where an error such as a full disk would go unnoticed.
        self._events = EventsWriter(str(folder / "tensorboard" / "events"))
        # This event makes TensorBoard hide what an earlier process wrote after `start`.
        restart = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(wall_time=time.time(), step=start + 1, session_log=restart))
        self._context = contextlib.ExitStack()
        bar = terminal.shown("step", steps, start=start, logged=False)
        self._update = self._context.enter_context(bar)
        self._steps = steps

    def say(self, text: str) -> None:
        """Prints one line."""
        if self._enabled:
            print(text, flush=True)

    def advance(self, step: int) -> None:
        """Moves the progress bar, if there is one."""
        if self._enabled:
            self._update(step)

    def write(
        self, step: int, values: Mapping[str, float], *, prefix: str = "train", protocol: str = ""
    ) -> None:
        """Logs `values` as `prefix/name`, with the evaluation protocol that produced them."""
        if not self._enabled:
            return
        from tensorboardX import summary

        # JSON has no NaN, which is the mIoU if no pixel has a class.
        numbers = {name: value for name, value in values.items() if math.isfinite(value)}
        line: dict[str, Any] = {"step": step, **{f"{prefix}/{name}": numbers.get(name) for name in values}}
        if protocol:
            line[f"{prefix}/protocol"] = protocol
        with self._explaining_errors():
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()
            self._record(step, [summary.scalar(f"{prefix}/{name}", value) for name, value in numbers.items()])
        if self._bucket is not None and time.monotonic() - self._copied > _COPIES_EVERY:
            self._copy()
        shown = _SHOWN if prefix == "train" else values
        words = [f"{name}={values[name]:.4g}" for name in shown if name in values]
        if prefix == "train":
            self._update(step, words)
        if prefix != "train" or not (terminal.is_terminal() and sys.stdout.isatty()):
            kind = "" if prefix == "train" else f"{prefix} ({protocol}) "
            self.say(f"step {step}/{self._steps} {kind}{' '.join(words)}")

    def show(self, step: int, images: Mapping[str, Any]) -> None:
        """Writes images, uint8 `[H, W, 3]` by name, to the TensorBoard files."""
        if self._enabled:
            from tensorboardX import summary

            with self._explaining_errors():
                self._record(
                    step, [summary.image(name, image, dataformats="HWC") for name, image in images.items()]
                )

    def _record(self, step: int, summaries: list[Any]) -> None:
        from tensorboardX.proto.event_pb2 import Event

        for summary in summaries:
            self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._events.flush()

    @contextlib.contextmanager
    def _explaining_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError.for_file(
                self._folder,
                f"the log cannot be written: {error.strerror or error}; free some space, and the same "
                "command resumes from the last checkpoint",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._enabled:
            self._context.close()
            for opened in (self._stream, self._events):
                with contextlib.suppress(OSError):  # A full disk has been reported already.
                    opened.close()
            if self._bucket is not None:
                self._copy()
                shutil.rmtree(self._folder)

    def _copy(self) -> None:
        """Copies the log to the bucket. A failure is reported but does not end the run."""
        assert self._bucket is not None
        self._copied = time.monotonic()
        for path in filter(Path.is_file, self._folder.rglob("*")):
            try:
                with replacing(self._bucket / path.relative_to(self._folder).as_posix()) as partial:
                    shutil.copyfile(path, partial)
            except InputError as error:
                print(error, file=sys.stderr)


def _drop_lines_after(file: Path, step: int) -> None:
    """Drops the lines after `step`, the checkpoint that training resumes from, and damaged lines."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # The line is damaged or was not written by a run.
    with replacing(file) as partial:
        partial.write_text("".join(kept))
