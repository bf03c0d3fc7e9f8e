"""Runs in processes of their own, stopped or killed while they train, and resumed."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from danet_jax.data.builders import base

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = (
    f"--config={ROOT / 'configs/quickstart.py'}",
    "--config.dataset.options.height=32",
    "--config.dataset.options.width=48",
    "--config.dataset.options.train=12",
    "--config.dataset.options.val=2",
    "--config.dataset.base_size=32",
    "--config.dataset.crop_size=32",
    "--config.dataset.workers=1",
    "--config.training.pictures=0",
    "--config.training.report=False",
    "--config.training.batch_size=2",
    "--config.training.evaluate_every=1000",
    "--config.training.log_every=1",
    "--config.mesh.data=1",
    "--config.model.output_stride=32",
)


@contextlib.contextmanager
def started(folder, *flags, workdir="run"):
    """A training in a session of its own, ended with the test."""
    command = [sys.executable, "-u", str(ROOT / "run.py"), *FLAGS, f"--workdir={workdir}", *flags]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(process, text):
    """Reads lines of `process` until one holds `text`."""
    for line in process.stdout:
        if text in line:
            return line
    pytest.fail(f"ended without {text!r}: {process.stderr.read()}")


@pytest.mark.slow
def test_sigterm_saves_the_step_and_the_next_start_resumes_from_it(tmp_path, rng):
    stop_after = int(rng.integers(2, 30))
    with started(tmp_path, "--config.training.steps=100000") as process:
        wait_for(process, f"step {stop_after}/")
        with started(tmp_path, "--config.training.steps=100000") as second:
            output, error = second.communicate(timeout=120)
            assert second.returncode == 1
            assert f"is in use by process {process.pid} on" in error
            assert error.count("\n") == 1
        told = time.perf_counter()
        os.killpg(process.pid, signal.SIGTERM)  # the workers get it, too, as from a scheduler
        output, error = process.communicate(timeout=60)
    took = time.perf_counter() - told
    print(f"ended {took:.1f} s after the signal")
    assert process.returncode == 143, error
    assert "run.py:" not in error
    last = output.strip().splitlines()[-1]
    assert last.startswith("stopped by SIGTERM at step ")
    step = int(last.split()[5])
    assert json.loads((tmp_path / f"run/checkpoints/{step}/digests.json").read_text())
    assert f"step {step}/" in output.splitlines()[-2]
    assert not (tmp_path / "run/lock.json").exists()
    with started(tmp_path, "--config.training.steps=100000") as process:
        assert f" {step} " in wait_for(process, "from step")
        wait_for(process, f"step {step + 1}/")
        os.killpg(process.pid, signal.SIGINT)
        output, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "run.py:" not in error
    assert output.strip().splitlines()[-1].startswith("stopped by SIGINT at step ")


def test_a_preparation_that_is_stopped_reports_it_and_can_be_repeated(main, tmp_path, monkeypatch, capsys):
    flags = (f"--config={ROOT / 'configs/quickstart.py'}", "--mode=prepare", "--config.dataset.data_dir=data")
    flags += ("--config.dataset.options.train=12", "--config.dataset.options.val=2")
    checked = base._read_and_check
    told = []

    def stopping(*arguments):
        told.append(None)
        if len(told) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return checked(*arguments)

    monkeypatch.setattr(base, "_read_and_check", stopping)
    assert main(*flags) == 143
    told_so = capsys.readouterr()
    assert told_so.out == "stopped by SIGTERM in --mode=prepare; the same command starts it again\n"
    assert told_so.err == "preparing scenes train, 12 images\n"
    assert not list(tmp_path.rglob("dataset_info.json"))  # nothing that is taken for complete
    assert main(*flags) == 0
    assert "12 train, 2 val" in capsys.readouterr().out
