"""Checkpoints of small arrays: restored bit for bit onto any mesh; failures to write or read them are reported."""

import errno
import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.runs.checkpoints import Checkpoints
from danet_jax.runs.directory import checkpoint_steps
from danet_jax.runs.stored import scores_file
from tests.reference.refusal import refused

ROOT = pathlib.Path(__file__).parents[2]
DESCRIPTION = {"model": {}, "classes": {}}


def arrays(rng):
    """As of a state: of several shapes, some of which divide over no devices."""
    shapes = {"kernel": (3, 3, 8, 16), "bias": (7,), "scale": (), "stored": (8, 4)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def laid_out(values, devices):
    """Over a mesh, `stored` divided over both of its axes."""
    mesh = Mesh(devices, ("data", "space"))
    parts = {"stored": PartitionSpec("data", "space")}
    shardings = {name: NamedSharding(mesh, parts.get(name, PartitionSpec())) for name in values}
    return {
        name: jax.make_array_from_callback(values[name].shape, sharding, values[name].__getitem__)
        for name, sharding in shardings.items()
    }


def test_checkpoints_are_restored_bit_for_bit_onto_other_meshes(rng, tmp_path):
    values, progress = arrays(rng), {"step": jnp.int32(3)}
    zeros = {name: np.zeros_like(value) for name, value in values.items()}
    devices = np.asarray(jax.devices())
    layouts = [devices[:1].reshape(1, 1), devices.reshape(8, 1), devices.reshape(2, 4)]
    position = {"examples_taken": 12}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, laid_out(values, layouts[0]), progress, position, DESCRIPTION)
    for step, layout in enumerate([layouts[1], layouts[2], layouts[0]], start=1):
        with Checkpoints(tmp_path) as checkpoints:
            like = laid_out(zeros, layout)
            restored = checkpoints.restore(like, progress, DESCRIPTION)
            assert (restored.step, restored.position) == (step, position)
            for name, value in restored.variables.items():
                assert value.sharding == like[name].sharding
                np.testing.assert_array_equal(value, values[name])
            checkpoints.save(step + 1, restored.variables, progress, position, DESCRIPTION)


def test_two_processes_and_one_restore_checkpoints_of_each_other(rng, tmp_path):
    values, progress = arrays(rng), {"step": jnp.int32(3)}
    np.savez(tmp_path / "values.npz", **values)
    devices = np.asarray(jax.devices())
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(
            1, laid_out(values, devices.reshape(2, 4)), progress, {"examples_taken": 1}, DESCRIPTION
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.runs.two_processes", str(tmp_path), address, str(process)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for process in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], errors
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        restored = checkpoints.restore(laid_out(values, devices.reshape(8, 1)), progress, DESCRIPTION)
    assert (restored.step, restored.position) == (2, {"examples_taken": 2})
    jax.tree.map(np.testing.assert_array_equal, restored.variables, values)


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(rng, tmp_path, monkeypatch, capfd):
    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)  # as run.py does
    try:
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, arrays(rng), {"step": jnp.int32(1)}, {}, DESCRIPTION)
        checkpoints.wait()
        monkeypatch.setattr("danet_jax.runs.checkpoints.write_digests", full)
        checkpoints.save(2, arrays(rng), {"step": jnp.int32(2)}, {}, DESCRIPTION)
        with refused(what=tmp_path):
            checkpoints.wait()
    finally:
        logging.set_verbosity(verbosity)
    assert capfd.readouterr().err == ""
    assert checkpoint_steps(tmp_path) == [1]


def test_a_directory_that_is_renamed_during_training_is_reported(rng, tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(1, arrays(rng), {"step": jnp.int32(1)}, {}, DESCRIPTION)
        checkpoints.wait()
        (tmp_path / "run").rename(tmp_path / "elsewhere")
        with refused(what=tmp_path / "run"):
            checkpoints.save(2, arrays(rng), {"step": jnp.int32(2)}, {}, DESCRIPTION)
    assert checkpoint_steps(tmp_path / "elsewhere") == [1]


def test_the_best_the_newest_and_every_fifth_checkpoint_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep_every=5) as checkpoints:
        for step, miou in enumerate([0.3, 0.9, 0.9, float("nan"), 0.1, 0.2], start=1):
            checkpoints.save(step, {"a": np.zeros(3)}, {"step": np.int32(step)}, {}, DESCRIPTION)
            checkpoints.score(step, {"miou": miou})
    assert checkpoint_steps(tmp_path) == [3, 5, 6]


def test_training_resumes_from_the_newest_intact_checkpoint(rng, tmp_path, capsys):
    progress = {"step": jnp.int32(1)}
    with Checkpoints(tmp_path, keep_every=1) as checkpoints:
        saved = [jax.tree.map(jnp.asarray, arrays(rng)) for _ in range(3)]
        for step, values in enumerate(saved, start=1):
            checkpoints.save(step, values, progress, {"examples_taken": step}, DESCRIPTION)
    file = next(path for path in (tmp_path / "3/variables").rglob("*") if path.parent.name == "d")
    file.write_bytes(file.read_bytes()[:-1])
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(saved[0], progress, DESCRIPTION)
        assert (restored.step, restored.position) == (2, {"examples_taken": 2})
        jax.tree.map(np.testing.assert_array_equal, restored.variables, saved[1])
        assert str(file) in capsys.readouterr().err
        assert checkpoint_steps(tmp_path)[-1] == 2
        checkpoints.save(3, saved[2], progress, {"examples_taken": 3}, DESCRIPTION)
    assert checkpoint_steps(tmp_path)[-1] == 3
    for step in checkpoint_steps(tmp_path):
        (tmp_path / str(step) / "digests.json").unlink()
    with refused(what=tmp_path / "3"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(saved[0], progress, DESCRIPTION)


@pytest.mark.parametrize("change", ["shape", "dtype", "name", "description"])
def test_a_checkpoint_of_another_network_is_refused(rng, tmp_path, change):
    values, progress = jax.tree.map(jnp.asarray, arrays(rng)), {"step": jnp.int32(1)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, values, progress, {}, {"model": {"stem": "v1"}})
    stem = "v1c" if change == "description" else "v1"
    if change == "shape":
        values["bias"] = jnp.zeros(8)
    elif change == "dtype":
        values["bias"] = values["bias"].astype(jnp.bfloat16)
    elif change == "name":
        values["bias2"] = values.pop("bias")
    what = "model.stem" if change == "description" else "bias"
    with Checkpoints(tmp_path) as checkpoints, refused(what=what):
        checkpoints.restore(values, progress, {"model": {"stem": stem}})


def test_damaged_scores_are_reported_and_removed(rng, tmp_path, capsys):
    values, progress = jax.tree.map(jnp.asarray, arrays(rng)), {"step": jnp.int32(1)}
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, values, progress, {}, DESCRIPTION)
            checkpoints.score(step, {"miou": 0.5 / step})
    file = scores_file(tmp_path / "2")
    file.write_text("")
    with Checkpoints(tmp_path) as checkpoints:
        assert str(file) in capsys.readouterr().err
        assert (checkpoints.is_scored(1), checkpoints.is_scored(2)) == (True, False)
        assert checkpoints.restore(values, progress, DESCRIPTION).step == 2
    with Checkpoints(tmp_path) as checkpoints:
        assert capsys.readouterr().err == ""


TWO_SIGNALS = """
import pathlib, sys, time
import numpy as np
from danet_jax.runs import checkpoints
from danet_jax.runs.stopping import StopSignals

save = lambda step: there.save(step, {"a": np.zeros(3)}, {"step": np.int32(step)}, {}, {})
with StopSignals() as signals, checkpoints.Checkpoints(pathlib.Path(sys.argv[1])) as there, signals.between_steps():
    save(1)
    there.wait()
    checkpoints.write_digests = lambda folder: time.sleep(600)
    save(2)
    print("writing", flush=True)
    while not signals.agreed():
        time.sleep(0.01)
    print("stopping", flush=True)
"""


def test_a_second_signal_stops_at_once_and_leaves_the_last_complete_checkpoint(tmp_path):
    command = [sys.executable, "-c", TWO_SIGNALS, str(tmp_path / "checkpoints")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "writing\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "stopping\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=5) == 143
        finally:
            process.kill()
    assert checkpoint_steps(tmp_path / "checkpoints") == [1]
