"""Training and preparation are stopped by signals, and resumed."""

import json
import os
import signal

import pytest

from danet_jax.data.builders import base
from tests.reference.commands import QUICKSTART, started, wait_for

FLAGS = (
    "--config.training.steps=100000",
    "--config.training.evaluate_every=1000",
    "--config.training.log_every=1",
)
FLAGS += ("--config.dataset.workers=1", "--config.mesh.data=1", "--workdir=run")


@pytest.mark.slow
def test_sigterm_saves_the_step_and_the_next_start_resumes_from_it(tmp_path, rng):
    stop_after = int(rng.integers(2, 30))
    with started(tmp_path, *FLAGS) as process:
        wait_for(process, f"step {stop_after}/")
        with started(tmp_path, *FLAGS) as second:
            output, error = second.communicate(timeout=120)
            assert second.returncode == 1
            assert f"is in use by process {process.pid} on" in error
            assert error.count("\n") == 1
        os.killpg(process.pid, signal.SIGTERM)  # the workers get it, too, as from a scheduler
        output, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert "run.py:" not in error
    last = output.strip().splitlines()[-1]
    assert last.startswith("stopped by SIGTERM at step ")
    step = int(last.split()[5])
    assert json.loads((tmp_path / f"run/checkpoints/{step}/digests.json").read_text())
    assert f"step {step}/" in output.splitlines()[-2]
    assert not (tmp_path / "run/lock.json").exists()
    with started(tmp_path, *FLAGS) as process:
        assert f" {step} " in wait_for(process, "from step")
        wait_for(process, f"step {step + 1}/")
        os.killpg(process.pid, signal.SIGINT)
        output, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "run.py:" not in error
    assert output.strip().splitlines()[-1].startswith("stopped by SIGINT at step ")


def test_a_stopped_preparation_can_be_repeated(main, tmp_path, monkeypatch, capsys):
    flags = (QUICKSTART, "--mode=prepare", "--config.dataset.data_dir=data")
    flags += ("--config.dataset.options.train=12", "--config.dataset.options.val=2")
    checked = base._read_and_check
    calls = []

    def stopping(*arguments):
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return checked(*arguments)

    monkeypatch.setattr(base, "_read_and_check", stopping)
    assert main(*flags) == 143
    output = capsys.readouterr()
    assert output.out.startswith("stopped by SIGTERM in --mode=prepare")
    assert output.err.count("\n") == 1
    assert not list(tmp_path.rglob("dataset_info.json"))  # nothing that would count as complete
    assert main(*flags) == 0
    assert "12 train, 2 val" in capsys.readouterr().out
