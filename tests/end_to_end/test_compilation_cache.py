"""What was compiled once is not compiled again when a run starts again or resumes."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from danet_jax.command.startup import use_compilation_cache
from tests.reference.refusal import refused

ROOT = pathlib.Path(__file__).parents[2]


def run(tmp_path, workdir, *flags):
    command = [
        *(sys.executable, ROOT / "run.py", f"--config={ROOT}/configs/quickstart.py", f"--workdir={workdir}"),
        *(f"--config.dataset.data_dir={tmp_path}/data", f"--config.compilation_cache={tmp_path}/cache"),
        *("--config.dataset.options.train=8", "--config.dataset.options.val=2", "--config.dataset.workers=0"),
        *("--config.training.batch_size=2", "--config.dataset.crop_size=32", "--config.training.log_every=1"),
        *("--config.training.checkpoint_every=2", "--config.training.evaluate_every=1000", *flags),
    ]
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "true", "XLA_FLAGS": ""}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def steps(tmp_path):
    return {path.name for path in (tmp_path / "cache").glob("jit_step*-cache")}


@pytest.mark.slow
def test_a_second_run_and_a_resumed_run_use_the_compilation_cache(tmp_path):
    first = tmp_path / "first"
    flags = (
        "--config.training.steps=2",
        "--config.training.checkpoint_every=1",
        "--config.training.keep_every=1",
    )
    run(tmp_path, first, *flags, "--config.training.profile_steps=(2,2)")
    lines = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    assert "train/seconds_per_step" not in lines[0]
    assert 0 < lines[1]["train/seconds_per_step"] < 100
    assert list(first.glob("tensorboard/plugins/profile/*/*.xplane.pb"))

    steps_of_first = steps(tmp_path)
    assert steps_of_first
    run(tmp_path, tmp_path / "second", *flags)
    # Of other programs, those that took a moment longer to compile this time may be new.
    assert steps(tmp_path) == steps_of_first
    shutil.rmtree(tmp_path / "second" / "checkpoints" / "2")
    assert "from step 1 " in run(tmp_path, tmp_path / "second", *flags).stdout
    assert steps(tmp_path) == steps_of_first


def test_a_cache_folder_that_cannot_be_created_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with refused(what="config.compilation_cache", value=f"{tmp_path}/file/cache"):
        use_compilation_cache(f"{tmp_path}/file/cache")
