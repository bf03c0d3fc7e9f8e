"""The loop: interrupted and resumed, stopped by a loss that is not finite, and what it writes."""

import json

import jax
import numpy as np
import pytest

from danet_jax import DANet, InputError
from danet_jax.data.dataset import open_dataset
from danet_jax.data.pipeline import training_batches
from danet_jax.training.loop import train
from danet_jax.training.mesh import make_mesh
from danet_jax.training.optimizer import poly_schedule, sgd
from danet_jax.training.state import create_state, make_train_step
from danet_jax.weights.run_directory import read_run, write_description

STEPS = 6


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    options = {"height": 32, "width": 48, "train": 12, "val": 1}
    return open_dataset("scenes", data_dir=data_dir, options=options)


@pytest.fixture(scope="module")
def trainer(scenes):
    """Trains for STEPS steps in a folder; compiled once for all tests."""
    mesh = make_mesh(2, 1)
    model = DANet(len(scenes.classes), backbone="resnet18", output_stride=32)
    schedule = poly_schedule(0.01, STEPS)
    optimizer = sgd(schedule)
    step = make_train_step(model, optimizer)
    fresh = create_state(model, optimizer, 5, mesh)

    def run(folder, evaluate, train_step=step):
        batches = training_batches(
            scenes.source("train"), batch_size=4, base_size=32, crop_size=32, seed=7, workers=0
        )
        return train(
            jax.tree.map(jax.numpy.copy, fresh),  # the step takes its state away
            train_step,
            batches,
            evaluate,
            protocol="whole",
            mesh=mesh,
            folder=folder,
            steps=STEPS,
            schedule=schedule,
            head_multiplier=10.0,
            evaluate_every=2,
            checkpoint_every=3,
            log_every=1,
        )

    run.step, run.model, run.classes = step, model, scenes.classes
    return run


def test_an_interrupted_run_resumed_equals_an_uninterrupted_one(trainer, tmp_path, capsys):
    whole = trainer(tmp_path / "whole", lambda _: {"miou": 0.5})

    def fail_at_step_four(_, calls=[0]):  # noqa: B006
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return {"miou": 0.5}

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "parts", fail_at_step_four)
    resumed = trainer(tmp_path / "parts", lambda _: {"miou": 0.5})
    assert "going on from step 3" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), jax.device_get(whole))
    lines = [json.loads(line) for line in (tmp_path / "parts/metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == list(range(1, STEPS + 1))
    reference = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    names = ("step", "train/loss", "train/gradient_norm", "train/alpha", "train/beta", "train/learning_rate")
    for ours, theirs in zip(lines, reference, strict=True):
        assert [ours.get(name) for name in names] == [theirs.get(name) for name in names]
    assert list((tmp_path / "parts/tensorboard").iterdir())


def test_the_best_and_the_newest_are_kept(trainer, tmp_path):
    scores = iter((0.3, 0.9, 0.5))
    final = trainer(tmp_path, lambda _: {"miou": next(scores)})
    write_description(tmp_path, {"model": {"backbone": "resnet18", "output_stride": 32}}, trainer.classes)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()} == {"4", "6"}
    best, newest = read_run(tmp_path), read_run(tmp_path, which="newest")
    assert (best.step, newest.step) == (4, 6)
    assert (best.model, best.classes) == (trainer.model, trainer.classes)
    jax.tree.map(np.testing.assert_array_equal, newest.variables, jax.device_get(final.variables))
    differing = jax.tree.map(lambda a, b: not np.array_equal(a, b), best.variables, newest.variables)
    assert any(jax.tree.leaves(differing))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(trainer, tmp_path):
    def exploding(state, batch):
        if int(state.step) == 3:
            state = state.replace(params=jax.tree.map(lambda x: x * np.float32("nan"), state.params))
        return trainer.step(state, batch)

    with pytest.raises(InputError, match=r"step 4: the loss is nan.*step 3 in .* is kept"):
        trainer(tmp_path, lambda _: {"miou": 0.5}, exploding)
    write_description(tmp_path, {"model": {"backbone": "resnet18", "output_stride": 32}}, trainer.classes)
    run = read_run(tmp_path, which="newest")
    assert run.step == 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.variables))


@pytest.mark.parametrize("name", ["gradient_norm", "parameter_norm"])
def test_gradients_or_parameters_that_are_not_finite_stop_it_too(trainer, tmp_path, name):
    def exploding(state, batch):
        step = int(state.step)
        state, metrics = trainer.step(state, batch)
        return state, metrics | ({name: np.float32("inf")} if step == 3 else {})

    message = rf"step 4: the {name.replace('_', ' ')} is inf.*step 3 in .* is kept"
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, lambda _: {"miou": 0.5}, exploding)


def test_a_damaged_checkpoint_is_named(trainer, tmp_path):
    trainer(tmp_path, lambda _: {"miou": 0.5})
    write_description(tmp_path, {"model": {"backbone": "resnet18", "output_stride": 32}}, trainer.classes)
    (tmp_path / "checkpoints/6/variables/_METADATA").unlink()
    (tmp_path / "checkpoints/6/variables/manifest.ocdbt").unlink()
    with pytest.raises(InputError, match=r"checkpoints/6: .*delete this folder"):
        read_run(tmp_path)
    with pytest.raises(InputError, match=r"checkpoints/6: .*delete this folder"):
        trainer(tmp_path, lambda _: {"miou": 0.5})
