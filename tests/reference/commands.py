"""`run.py` with a tiny recipe, in processes of their own."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
QUICKSTART = f"--config={ROOT / 'configs/quickstart.py'}"
TINY = (
    "--config.dataset.options.height=32",
    "--config.dataset.options.width=48",
    "--config.dataset.options.train=12",
    "--config.dataset.options.val=2",
    "--config.dataset.base_size=32",
    "--config.dataset.crop_size=32",
    "--config.dataset.workers=0",
    "--config.training.batch_size=2",
    "--config.training.pictures=0",
    "--config.training.report=False",
    "--config.model.output_stride=32",
)
"""Flags that make the quickstart recipe tiny."""


@contextlib.contextmanager
def started(folder, *flags, program=ROOT / "run.py", environment=None):
    """Starts `run.py` in a session of its own, which is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-u", str(program), QUICKSTART, *TINY, *flags],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(process, text):
    """Returns the first line of the output that contains `text`."""
    for line in process.stdout:
        if text in line:
            return line
    pytest.fail(f"ended without {text!r}: {process.stderr.read()}")
