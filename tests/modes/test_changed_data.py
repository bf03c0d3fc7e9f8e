"""A run whose data changed between stopping and resuming."""

import json

import numpy as np
import pytest
from PIL import Image

from danet_jax.modes import prepare
from danet_jax.runs.directory import read_data, write_description
from tests.modes.conftest import start
from tests.modes.test_prepare_and_check import folder, recipe_of
from tests.reference.refusal import refused


@pytest.fixture
def run(rng, tmp_path):
    """A run that has just started on a user's own folder: its recipe and directory."""
    recipe = recipe_of("folder", folder(rng, tmp_path / "in"), tmp_path)
    dataset = prepare.recipe_dataset(recipe)
    write_description(tmp_path / "run", recipe.as_dict(), dataset.classes, dataset.digest("train", "val"))
    return recipe, tmp_path / "run"


def edit_a_label(tmp_path):
    path = tmp_path / "in/labels/train/3.png"
    label = np.array(Image.open(path))
    label[-1, -1] = 1 - label[-1, -1]
    Image.fromarray(label).save(path)


def test_training_on_changed_data_is_refused(run, tmp_path):
    recipe, workdir = run
    edit_a_label(tmp_path)
    for part in ("images", "labels"):
        image = Image.open(tmp_path / "in" / part / "val/1.png")
        image.save(tmp_path / "in" / part / "val/2.png")
    with refused(what=workdir / "data.json") as caught:
        start(recipe, workdir)
    train_labels, val_images = caught.value.value
    assert "train" in train_labels
    assert "labels" in train_labels
    assert "val: 1 images added" in val_images
    assert "training.resume_anyway" in str(caught.value)


def test_changed_data_may_be_accepted_and_an_old_run_has_no_digest(run, tmp_path, capsys):
    recipe, workdir = run
    same = prepare.recipe_dataset(recipe).digest("train", "val")
    capsys.readouterr()
    prepare.refuse_other_data(workdir, same, resume_anyway=False)
    assert capsys.readouterr().err == ""
    edit_a_label(tmp_path)
    other = prepare.recipe_dataset(recipe).digest("train", "val")
    capsys.readouterr()
    prepare.refuse_other_data(workdir, other, resume_anyway=True)
    assert capsys.readouterr().err.count("\n") == 1
    (workdir / "data.json").unlink()
    assert read_data(workdir) is None
    prepare.refuse_other_data(workdir, other, resume_anyway=False)
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert str(workdir) in warning


@pytest.mark.parametrize("content", ["", "[]", "{", '{"train": 3}', '{"train": {}}'])
def test_a_damaged_digest_is_refused(run, content):
    recipe, workdir = run
    (workdir / "data.json").write_text(content)
    with refused(what=workdir / "data.json"):
        start(recipe, workdir)


def test_the_stored_digest_is_that_of_the_data(run):
    recipe, workdir = run
    stored = json.loads((workdir / "data.json").read_text())
    assert stored == prepare.recipe_dataset(recipe).digest("train", "val")
    assert stored["train"]["examples"] == 8
