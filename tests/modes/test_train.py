"""The training loop: interrupted and resumed, stopped by a loss that is not finite, and what it writes."""

import functools
import json
import types

import jax
import numpy as np
import pytest

from danet_jax import InputError
from danet_jax.modes import train
from danet_jax.recipe import defaults, read_recipe
from danet_jax.runs.checkpoints import Checkpoints
from danet_jax.runs.directory import read_run

STEPS = 6


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    config = defaults()
    config.name = "tiny"
    config.seed = 7
    config.model.backbone = "resnet18"
    config.model.output_stride = 32
    config.dataset.name = "scenes"
    config.dataset.data_dir = str(tmp_path_factory.mktemp("data"))
    config.dataset.options = {"height": 32, "width": 48, "train": 12, "val": 1}
    config.dataset.base_size = config.dataset.crop_size = 32
    config.dataset.workers = 0
    config.mesh.data = 2
    config.training.batch_size = 4
    config.training.steps = STEPS
    config.training.learning_rate = 0.01
    config.training.ohem_threshold = 0.7
    config.training.ohem_kept = 200
    config.training.ema_decay = 0.6
    config.training.evaluate_every = 2
    config.training.checkpoint_every = 3
    config.training.log_every = 1
    return read_recipe(config.to_dict())


@pytest.fixture(scope="module")
def compiled_once():
    """`make_train_step` and `create_state` that compile once for all tests, whose recipes train alike."""
    made = {}

    def once(function, *arguments, **options):
        if function not in made:
            made[function] = function(*arguments, **options)
        return made[function]

    make, create = train.make_train_step, train.create_state
    return {
        "make_train_step": functools.partial(once, make),
        # The step takes its state away.
        "create_state": lambda *arguments, **options: jax.tree.map(
            jax.numpy.copy, once(create, *arguments, **options)
        ),
    }


@pytest.fixture
def trained(recipe, compiled_once, monkeypatch):
    """Trains in a folder, `evaluate` giving the mIoU, and returns the last state."""

    def call(folder, evaluate=lambda: 0.5, changed_step=lambda step: step):
        class Scores:
            def __init__(self, model, classes, protocol, mesh):
                self.protocol = types.SimpleNamespace(name="whole")

            def __call__(self, variables, examples):
                return types.SimpleNamespace(miou=evaluate(), pixel_accuracy=0.5)

        monkeypatch.setattr(train, "Evaluator", Scores)
        monkeypatch.setattr(train, "create_state", compiled_once["create_state"])
        make = compiled_once["make_train_step"]
        monkeypatch.setattr(train, "make_train_step", lambda *a, **k: changed_step(make(*a, **k)))
        assert train.run(recipe, folder, []) == 0
        state = compiled_once["create_state"]()
        with Checkpoints(folder / "checkpoints") as checkpoints:
            return checkpoints.restore(state.variables, state.progress)[:2]

    return call


def test_an_interrupted_run_resumed_equals_an_uninterrupted_one(trained, tmp_path, capsys):
    whole = trained(tmp_path / "whole")

    def fail_at_step_four(calls=[0]):  # noqa: B006
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", fail_at_step_four)
    resumed = trained(tmp_path / "parts")
    assert "going on from step 3" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), jax.device_get(whole))
    lines = [json.loads(line) for line in (tmp_path / "parts/metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == list(range(1, STEPS + 1))
    reference = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    names = (
        "step",
        "train/loss",
        "train/gradient_norm",
        "train/alpha",
        "train/beta",
        "train/attention_spread",
        "train/attention_entropy",
        "train/learning_rate",
    )
    for ours, theirs in zip(lines, reference, strict=True):
        assert [ours.get(name) for name in names] == [theirs.get(name) for name in names]
    assert list((tmp_path / "parts/tensorboard").iterdir())


def test_the_best_and_the_newest_are_kept(trained, recipe, tmp_path):
    scores = iter((0.3, 0.9, 0.5))
    final = trained(tmp_path, lambda: next(scores))
    assert {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()} == {"4", "6"}
    best, newest = read_run(tmp_path), read_run(tmp_path, which="newest")
    assert (best.step, newest.step) == (4, 6)
    assert best.model == recipe.network(len(best.classes))
    assert "road (red light)" in best.classes.names
    average, progress = jax.device_get(final)
    jax.tree.map(np.testing.assert_array_equal, newest.variables, average)
    trained_away = jax.tree.map(lambda a, b: not np.array_equal(a, b), average, progress["trained"])
    assert any(jax.tree.leaves(trained_away))  # what is read is the moving average
    differing = jax.tree.map(lambda a, b: not np.array_equal(a, b), best.variables, newest.variables)
    assert any(jax.tree.leaves(differing))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(trained, tmp_path):
    def exploding(train_step):
        def step(state, batch):
            if int(state.step) == 3:
                state = state.replace(params=jax.tree.map(lambda x: x * np.float32("nan"), state.params))
            return train_step(state, batch)

        return step

    with pytest.raises(InputError, match=r"step 4: the loss is nan.*step 3 in .* is kept"):
        trained(tmp_path, changed_step=exploding)
    run = read_run(tmp_path, which="newest")
    assert run.step == 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.variables))


@pytest.mark.parametrize("name", ["gradient_norm", "parameter_norm"])
def test_gradients_or_parameters_that_are_not_finite_stop_it_too(trained, tmp_path, name):
    def exploding(train_step):
        def step(state, batch):
            number = int(state.step)
            state, metrics = train_step(state, batch)
            return state, metrics | ({name: np.float32("inf")} if number == 3 else {})

        return step

    message = rf"step 4: the {name.replace('_', ' ')} is inf.*step 3 in .* is kept"
    with pytest.raises(InputError, match=message):
        trained(tmp_path, changed_step=exploding)


def test_a_damaged_checkpoint_is_named(trained, tmp_path):
    trained(tmp_path)
    (tmp_path / "checkpoints/6/variables/_METADATA").unlink()
    (tmp_path / "checkpoints/6/variables/manifest.ocdbt").unlink()
    with pytest.raises(InputError, match=r"checkpoints/6: .*delete this folder"):
        read_run(tmp_path)
    with pytest.raises(InputError, match=r"checkpoints/6: .*delete this folder"):
        trained(tmp_path)
