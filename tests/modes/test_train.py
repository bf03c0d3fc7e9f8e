"""The training loop: interrupted and resumed, stopped by a loss that is not finite, and what it writes."""

import json
import os
import re
import shutil
import signal
import time
import types

import jax
import numpy as np
import pytest

from danet_jax import InputError
from danet_jax.classes import Classes
from danet_jax.modes import train
from danet_jax.modes.training_step import training_step
from danet_jax.recipe import defaults, read_recipe
from danet_jax.runs import checkpoints
from danet_jax.runs.checkpoints import Checkpoints
from danet_jax.runs.digests import refuse_changed
from danet_jax.runs.directory import read_classes, read_run, write_description
from danet_jax.runs.stored import describe, read_scores
from danet_jax.training.mesh import make_mesh
from danet_jax.weights.checkpoint import variables_of

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
    config.training.class_balance = 0.5
    config.training.evaluate_every = 2
    config.training.checkpoint_every = 3
    config.training.log_every = 1
    config.training.pictures = 0
    config.training.report = False
    return read_recipe(config.to_dict())


@pytest.fixture(scope="module")
def compiled_once(recipe):
    """`training_step` that compiles once for all tests, whose recipes train alike."""
    made = []

    def once(*_, **__):
        if not made:
            step = training_step(recipe, recipe.network(9), STEPS, class_weights=(0.5, *[1.0] * 8))
            made.append(step)
            made.append(step.fresh_state(make_mesh(2, 1)))
        step, state = made
        # The step takes its state away.
        return step._replace(fresh_state=lambda *_: jax.tree.map(jax.numpy.copy, state))

    return once


@pytest.fixture
def trained(recipe, compiled_once, monkeypatch):
    """Trains in a folder, `evaluate` giving the mIoU, and returns the last state."""

    def call(folder, evaluate=lambda: 0.5, changed_step=lambda step: step, status=0, recipe=recipe):
        class Scores:
            def __init__(self, model, classes, protocol, mesh):
                self.protocol = types.SimpleNamespace(name="whole")

            def __call__(self, variables, examples):
                miou = evaluate()
                assert len(list(examples)) == 1
                return types.SimpleNamespace(miou=miou, pixel_accuracy=0.5)

        monkeypatch.setattr(train, "Evaluator", Scores)
        step = compiled_once()
        changed = step._replace(step=changed_step(step.step))
        monkeypatch.setattr(train, "training_step", lambda *_, **__: changed)
        assert train.run(recipe, folder, []) == status
        state = step.fresh_state()
        classes = read_classes(folder)
        description = describe(recipe.network(len(classes)), classes)
        with Checkpoints(folder / "checkpoints") as checkpoints:
            restored = checkpoints.restore(state.variables, state.progress, description)
            return restored.variables, restored.progress

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
    assert "going on from step 4" in capsys.readouterr().out
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_it_and_loses_nothing(trained, tmp_path, capsys, number):
    whole = trained(tmp_path / "whole")
    told = []

    def changed(train_step):
        def step(state, batch):
            if int(state.step) == 4 and not told:
                told.append(os.kill(os.getpid(), number))
            return train_step(state, batch)

        return step

    before = signal.getsignal(number)
    trained(tmp_path / "parts", changed_step=changed, status=128 + number)
    assert signal.getsignal(number) == before
    last = capsys.readouterr().out.splitlines()[-1]
    assert (
        last
        == f"stopped by {number.name} at step 5 of 6, saved in {tmp_path / 'parts'}; the same command goes on"
    )
    resumed = trained(tmp_path / "parts")
    assert "going on from step 5" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), jax.device_get(whole))


def test_a_signal_during_evaluation_ends_it_and_it_is_made_up_for(trained, tmp_path, capsys):
    told = []

    def evaluate():
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        told.append(None)
        return 0.5

    trained(tmp_path, evaluate, status=143)
    assert "stopped by SIGTERM at step 4 of 6" in capsys.readouterr().out
    evaluated = len(told)
    trained(tmp_path, evaluate)
    assert len(told) - evaluated == 2
    assert "step 4/6 validation" in capsys.readouterr().out


def test_a_signal_while_a_checkpoint_is_written_loses_nothing(trained, tmp_path, monkeypatch, capsys):
    write, told = checkpoints.write_digests, []

    def slowly(folder):
        told.append(folder.name)
        if len(told) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        write(folder)

    monkeypatch.setattr(checkpoints, "write_digests", slowly)
    trained(tmp_path, status=143)
    step = int(re.search(r"stopped by SIGTERM at step (\d) of 6, saved", capsys.readouterr().out)[1])
    assert step >= 3  # the second checkpoint's
    refuse_changed(tmp_path / "checkpoints" / str(step))
    assert read_run(tmp_path, variables_of, which="newest").step == step


def test_another_batch_size_goes_on_with_the_next_example(trained, recipe, tmp_path):
    def seen_by(folder, *parts):
        """Sums of the pictures in their order; `parts` are batch sizes and steps to go to."""
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


def test_a_signal_before_the_first_step_ends_at_once(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "recipe_dataset", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert train.run(recipe, tmp_path, []) == 143
    assert (
        capsys.readouterr().out == "stopped by SIGTERM before the first step; the same command starts again\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_kept(trained, tmp_path, monkeypatch):
    def full_later(folder):
        free = 0 if (tmp_path / "checkpoints/3").exists() else 10**12
        return types.SimpleNamespace(free=free)

    monkeypatch.setattr("danet_jax.runs.checkpoints.shutil.disk_usage", full_later)
    message = r"checkpoints: the checkpoint of step 4 cannot be written \(the disk is full.*; step 3 is kept"
    with pytest.raises(InputError, match=message):
        trained(tmp_path)
    monkeypatch.undo()
    assert read_run(tmp_path, variables_of, which="newest").step == 3


def test_the_best_and_the_newest_are_kept(trained, recipe, tmp_path):
    scores = iter((0.3, 0.9, 0.5))
    final = trained(tmp_path, lambda: next(scores))
    assert {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()} == {"4", "6"}
    best, newest = read_run(tmp_path, variables_of), read_run(tmp_path, variables_of, which="newest")
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

    with pytest.raises(InputError, match=r"step 4: the (loss|gradient norm) is nan.*step 3 in .* is kept"):
        trained(tmp_path, changed_step=exploding)
    run = read_run(tmp_path, variables_of, which="newest")
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


def a_file(checkpoint, rng, below="**"):
    """One of a checkpoint's files that hold something."""
    files = sorted(path for path in checkpoint.glob(f"{below}/*") if path.is_file() and path.stat().st_size)
    return files[rng.integers(len(files))]


def flip(file, rng):
    content = bytearray(file.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    file.write_bytes(content)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(trained, tmp_path, rng, capsys):
    whole = trained(tmp_path)
    flip(a_file(tmp_path / "checkpoints/6", rng, "variables/**"), rng)
    with pytest.raises(InputError, match=r"checkpoints/6/variables/.*changed since it was written"):
        read_run(tmp_path, variables_of, which="newest")
    resumed = trained(tmp_path)
    output = capsys.readouterr()
    assert "checkpoints/6/variables/" in output.err
    assert "going on from the checkpoint of step 4" in output.err
    assert "going on from step 4" in output.out
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), jax.device_get(whole))


@pytest.fixture(scope="module")
def checkpoint(recipe, compiled_once, tmp_path_factory):
    """A checkpoint of a fresh network."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    config = recipe.as_dict()
    state = compiled_once().fresh_state()
    classes = Classes.named(list("abcdefghi"))
    with Checkpoints(folder) as checkpoints:
        description = describe(recipe.network(9), classes)
        checkpoints.save(1, state.variables, state.progress, {"examples_taken": 4}, description)
        checkpoints.score(1, {"miou": 0.5})
    write_description(folder.parent, config, classes)
    return folder / "1"


def test_of_a_hundred_flips_each_is_found(checkpoint, rng, tmp_path):
    copy = tmp_path / "1"
    for _ in range(100):
        shutil.copytree(checkpoint, copy)
        file = a_file(copy, rng)
        flip(file, rng)
        with pytest.raises(InputError, match=re.escape(file.name)):
            (refuse_changed(copy), read_scores(copy))
        shutil.rmtree(copy)
    refuse_changed(checkpoint)


@pytest.mark.parametrize("damage", ["cut", "missing", "swapped", "added", "linked"])
def test_a_file_that_is_cut_missing_swapped_or_added_is_found(checkpoint, rng, tmp_path, damage):
    copy = tmp_path / "1"
    shutil.copytree(checkpoint, copy)
    file = a_file(copy, rng, "training/**")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "missing":
        file.unlink()
    elif damage == "swapped":
        shutil.copy(next(copy.glob("variables/d/*")), file)
    elif damage == "added":
        file = file.with_name("more")
        file.write_text("")
    else:
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=re.escape(file.name)):
        refuse_changed(copy)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "config.json",
            lambda c: c["model"].update(position_attention=False),
            "model.position_attention was True",
        ),
        ("config.json", lambda c: c["model"].update(multi_grid=[4, 8]), "model.multi_grid was"),
        (
            "classes.json",
            lambda c: c["names"].reverse(),
            "classes.names was 'a' when it was trained and is 'i'",
        ),
        ("classes.json", lambda c: c["names"].__setitem__(0, 3), "a name is no text"),
        ("classes.json", lambda c: c["colours"].pop(), "9 class names but 8 colours"),
        ("classes.json", lambda c: c["colours"][0].pop(), "is not three numbers"),
        ("classes.json", lambda c: c["colours"][0].__setitem__(0, 999), "is not three numbers"),
        ("classes.json", lambda c: c["colours"].__setitem__(0, "red"), "is not three numbers"),
        ("classes.json", lambda c: c["colours"][0].__setitem__(0, 7), "classes.colours was"),
    ],
)
def test_what_is_changed_in_config_or_classes_is_named(checkpoint, tmp_path, file, change, message):
    run = tmp_path / "run"
    shutil.copytree(checkpoint.parents[1], run)
    content = json.loads((run / file).read_text())
    change(content)
    (run / file).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_run(run, variables_of)


@pytest.mark.parametrize("content", [b"[]", b"null", b"[" * 100_000, b"\xff\x00", b"{", b"3"])
@pytest.mark.parametrize("file", ["config.json", "classes.json"])
def test_json_that_no_run_writes_is_refused(checkpoint, tmp_path, file, content):
    run = tmp_path / "run"
    shutil.copytree(checkpoint.parents[1], run)
    (run / file).write_bytes(content)
    with pytest.raises(InputError, match=file):
        read_run(run, variables_of)


def test_a_run_that_is_not_whole_or_has_gone_further_is_refused(trained, recipe, tmp_path):
    trained(tmp_path)
    options = recipe.training.model_copy(update={"steps": 3, "resume_anyway": True})
    fewer = recipe.model_copy(update={"training": options})
    config = (tmp_path / "config.json").read_text()
    with pytest.raises(InputError, match=r"has reached step 6, which is more than the 3"):
        train.run(fewer, tmp_path, [])
    assert (tmp_path / "config.json").read_text() == config
    # What is computed anew in the backward pass changes no result.
    model = recipe.model.model_copy(update={"remat": "blocks"})
    assert train.run(recipe.model_copy(update={"model": model}), tmp_path, []) == 0
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json is missing"):
        train.run(recipe, tmp_path, [])
