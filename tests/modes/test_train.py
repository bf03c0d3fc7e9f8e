"""The training loop: interrupted and resumed, stopped by a loss that is not finite, and what it writes."""

import json
import os
import re
import signal
import time
import types

import jax
import numpy as np
import pytest

from danet_jax.modes import train
from danet_jax.runs import checkpoints
from danet_jax.runs.stored import read_run, refuse_changed
from tests.modes.conftest import STEPS, start
from tests.reference.refusal import refused


@pytest.fixture(scope="module")
def uninterrupted():
    """The folder and the last state of a training without interruptions, once a test has made them."""
    return {}


def whole_run(uninterrupted, trained, tmp_path_factory):
    if not uninterrupted:
        folder = tmp_path_factory.mktemp("whole")
        uninterrupted.update(folder=folder, state=jax.device_get(trained(folder)))
    return uninterrupted["folder"], uninterrupted["state"]


def test_an_interrupted_run_resumed_equals_an_uninterrupted_one(
    trained, uninterrupted, tmp_path_factory, tmp_path, capsys
):
    folder, whole = whole_run(uninterrupted, trained, tmp_path_factory)

    def fail_at_step_four(calls=[0]):  # noqa: B006
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", fail_at_step_four)
    resumed = trained(tmp_path / "parts")
    assert "from step 4" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), whole)
    lines = [json.loads(line) for line in (tmp_path / "parts/metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == list(range(1, STEPS + 1))
    reference = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = (
        "loss",
        "gradient_norm",
        "alpha",
        "beta",
        "attention_spread",
        "attention_entropy",
        "learning_rate",
    )
    for line, expected in zip(lines, reference, strict=True):
        for name in ("step", *(f"train/{name}" for name in names)):
            assert line.get(name) == expected.get(name)
    assert list((tmp_path / "parts/tensorboard").iterdir())


def test_a_signal_saves_the_current_step_and_the_run_can_be_resumed(
    trained, uninterrupted, tmp_path_factory, tmp_path, capsys
):
    _, whole = whole_run(uninterrupted, trained, tmp_path_factory)
    signals = []

    def changed(train_step):
        def step(state, batch):
            if int(state.step) == 4 and not signals:
                signals.append(os.kill(os.getpid(), signal.SIGTERM))
            return train_step(state, batch)

        return step

    before = signal.getsignal(signal.SIGTERM)
    trained(tmp_path, changed_step=changed, status=143)
    assert signal.getsignal(signal.SIGTERM) == before
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"stopped by SIGTERM at step 5 of 6, saved in {tmp_path};")
    resumed = trained(tmp_path)
    assert "from step 5" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), whole)


def test_an_evaluation_interrupted_by_a_signal_is_repeated(trained, tmp_path, capsys):
    evaluations = []

    def evaluate():
        if len(evaluations) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        evaluations.append(None)
        return 0.5

    trained(tmp_path, evaluate, status=143)
    assert "stopped by SIGTERM at step 4 of 6" in capsys.readouterr().out
    before = len(evaluations)
    trained(tmp_path, evaluate)
    assert len(evaluations) - before == 2
    assert "step 4/6 validation" in capsys.readouterr().out


def test_a_signal_while_a_checkpoint_is_written(trained, tmp_path, monkeypatch, capsys):
    write, folders = checkpoints.write_digests, []

    def slowly(folder):
        folders.append(folder.name)
        if len(folders) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        write(folder)

    monkeypatch.setattr(checkpoints, "write_digests", slowly)
    trained(tmp_path, status=143)
    step = int(re.search(r"stopped by SIGTERM at step (\d) of 6, saved", capsys.readouterr().out)[1])
    assert step >= 3  # the second checkpoint's
    refuse_changed(tmp_path / "checkpoints" / str(step))
    assert read_run(tmp_path, which="newest").step == step


def test_resuming_with_another_batch_size_continues_with_the_next_example(trained, recipe, tmp_path):
    def seen_by(folder, *parts):
        """Sums of the images in their order; `parts` are batch sizes and numbers of steps."""
        seen = []

        def step(state, batch):
            seen.extend(np.asarray(batch["image"]).sum((1, 2, 3), np.int64).tolist())
            return state.replace(step=state.step + 1), {"loss": np.float32(1)}

        for batch_size, steps in parts:
            changes = {"batch_size": batch_size, "steps": steps, "evaluate_every": 99, "checkpoint_every": 99}
            changes["resume_anyway"] = True
            options = recipe.training.model_copy(update=changes)
            changed = recipe.model_copy(update={"training": options})
            trained(folder, changed_step=lambda _: step, recipe=changed)
        return seen

    once = seen_by(tmp_path / "once", (4, 6))
    assert seen_by(tmp_path / "parts", (4, 3), (2, 7), (4, 8)) == once


def test_a_signal_before_the_first_step_stops_at_once(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "recipe_dataset", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert start(recipe, tmp_path) == 143
    assert capsys.readouterr().out.startswith("stopped by SIGTERM before the first step;")
    assert not list(tmp_path.iterdir())


def test_the_last_checkpoint_is_kept_if_the_disk_is_full(trained, tmp_path, monkeypatch):
    def full_later(folder):
        free = 0 if (tmp_path / "checkpoints/3").exists() else 10**12
        return types.SimpleNamespace(free=free)

    monkeypatch.setattr("danet_jax.runs.checkpoints.shutil.disk_usage", full_later)
    with refused(tmp_path / "checkpoints"):
        trained(tmp_path)
    monkeypatch.undo()
    assert read_run(tmp_path, which="newest").step == 3


def test_the_best_and_the_newest_checkpoints_are_kept(trained, recipe, tmp_path):
    scores = iter((0.3, 0.9, 0.5))
    final = trained(tmp_path, lambda: next(scores))
    assert {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()} == {"4", "6"}
    best, newest = read_run(tmp_path), read_run(tmp_path, which="newest")
    assert (best.step, newest.step) == (4, 6)
    assert best.model == recipe.network(len(best.classes))
    assert "road (red light)" in best.classes.names
    average, progress = jax.device_get(final)
    jax.tree.map(np.testing.assert_array_equal, newest.variables, average)
    raw_differs = jax.tree.map(lambda a, b: not np.array_equal(a, b), average, progress["trained"])
    assert any(jax.tree.leaves(raw_differs))  # the moving average is read
    differing = jax.tree.map(lambda a, b: not np.array_equal(a, b), best.variables, newest.variables)
    assert any(jax.tree.leaves(differing))


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "parameter_norm"])
def test_training_stops_at_a_value_that_is_not_finite_and_keeps_the_last_good_checkpoint(
    trained, tmp_path, name
):
    def exploding(train_step):
        def step(state, batch):
            number = int(state.step)
            if number == 3 and name == "loss":
                state = state.replace(params=jax.tree.map(lambda x: x * np.float32("nan"), state.params))
            state, metrics = train_step(state, batch)
            return state, metrics | ({name: np.float32("inf")} if number == 3 and name != "loss" else {})

        return step

    with refused("config.training.learning_rate") as caught:
        trained(tmp_path, changed_step=exploding)
    assert str(caught.value).startswith("step 4: ")
    assert name == "loss" or f"the {name.replace('_', ' ')} is inf" in str(caught.value)
    run = read_run(tmp_path, which="newest")
    assert run.step == 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.variables))


def test_fewer_steps_and_an_incomplete_run_are_refused(trained, recipe, tmp_path):
    trained(tmp_path)
    options = recipe.training.model_copy(update={"steps": 3, "resume_anyway": True})
    fewer = recipe.model_copy(update={"training": options})
    config = (tmp_path / "config.json").read_text()
    with refused("config.training.steps", 3):
        start(fewer, tmp_path)
    assert (tmp_path / "config.json").read_text() == config
    # What the backward pass recomputes changes no result.
    model = recipe.model.model_copy(update={"remat": "blocks"})
    assert start(recipe.model_copy(update={"model": model}), tmp_path) == 0
    (tmp_path / "config.json").unlink()
    with refused(tmp_path / "config.json"):
        start(recipe, tmp_path)


def test_a_finished_training_is_reported_before_data_are_read(trained, recipe, tmp_path, capsys, monkeypatch):
    trained(tmp_path)
    monkeypatch.setattr(train, "recipe_dataset", lambda *_: pytest.fail("data were touched"))
    by_epochs = {"steps": None, "epochs": 2.0, "resume_anyway": True}  # 12 images in batches of 4
    for changes in ({}, by_epochs):
        capsys.readouterr()
        options = recipe.training.model_copy(update=changes)
        assert start(recipe.model_copy(update={"training": options}), tmp_path) == 0
        [line] = capsys.readouterr().out.splitlines()
        assert f"{tmp_path}: finished at step 6 of 6, mIoU 50.00 %" in line
    # Another network is refused, and a checkpoint that is damaged or was not evaluated is resumed.
    model = recipe.model.model_copy(update={"channel_attention": False})
    with refused(tmp_path / "checkpoints/6"):
        start(recipe.model_copy(update={"model": model, "training": options}), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(train, "read_scores", lambda _: None)
        assert train.describe_finished(recipe, tmp_path) == ""
    next((tmp_path / "checkpoints/6/variables/d").iterdir()).unlink()
    assert train.describe_finished(recipe, tmp_path) == ""


def test_an_initial_checkpoint_of_another_backbone_is_refused_before_data_are_read(
    trained, recipe, tmp_path, monkeypatch
):
    trained(tmp_path / "run")
    monkeypatch.setattr(train, "recipe_dataset", lambda *_: pytest.fail("data were touched"))
    init = recipe.init.model_copy(update={"checkpoint": str(tmp_path / "run")})
    model = recipe.model.model_copy(update={"backbone": "resnet34"})
    with refused(tmp_path / "run", "resnet34", "resnet18"):
        start(recipe.model_copy(update={"init": init, "model": model}), tmp_path / "other")
    assert not (tmp_path / "other").exists()
