"""The recipes: settings of the published trainings, and rows of the paper's tables by name."""

import importlib
import pathlib

import pytest

from configs import cityscapes
from danet_jax.data.dataset import DATASET_NAMES, dataset_builder
from danet_jax.recipe import read_recipe
from tests.reference.refusal import refused

CONFIGS = pathlib.Path(cityscapes.__file__).parent

PUBLISHED = {  # learning rate, epochs, batch, crop, base: the paper and the authors' code
    "cityscapes": (0.003, 240, 8, 768, 1024),
    "pascal_voc": (0.002, 240, 16, 512, 608),
    "pascal_context": (0.002, 240, 16, 512, 608),
    "coco_stuff": (0.002, 180, 16, 512, 608),
    "ade20k": (0.02, 160, 16, 480, 520),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_have_the_published_settings(name, tmp_path):
    recipe = read_recipe(importlib.import_module(f"configs.{name}").get_config().to_dict())
    training, data = recipe.training, recipe.dataset
    found = (training.learning_rate, training.epochs, training.batch_size, data.crop_size, data.base_size)
    assert found == pytest.approx(PUBLISHED[name])
    assert (training.momentum, training.weight_decay, training.power) == (0.9, 1e-4, 0.9)
    assert recipe.model.backbone == "resnet101"
    assert data.random_scale
    builder = dataset_builder(data.name, data_dir=tmp_path, options=data.options)  # which knows the options
    assert len(builder.classes) in (19, 21, 59, 150, 171)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    recipe = read_recipe(importlib.import_module(f"configs.{path.stem}").get_config().to_dict())
    assert recipe.dataset.name in DATASET_NAMES


@pytest.mark.parametrize(
    ("row", "backbone", "attention", "scaling", "multi_grid", "protocol", "name"),
    [
        ("resnet50,fcn", "resnet50", (False, False), False, (), "whole", "cityscapes_resnet50_fcn"),
        ("resnet50,pam", "resnet50", (True, False), False, (), "whole", "cityscapes_resnet50_pam"),
        ("cam,resnet101", "resnet101", (False, True), False, (), "whole", "cityscapes_resnet101_cam"),
        ("resnet101,danet", "resnet101", (True, True), False, (), "whole", "cityscapes_resnet101_danet"),
        ("da", "resnet101", (True, True), True, (), "whole", "cityscapes_resnet101_danet_da"),
        ("resnet101,danet,da,multi_grid", "resnet101", (True, True), True, (4, 8, 16), "whole", "cityscapes"),
        (
            "da,multi_grid,multi_scale",
            "resnet101",
            (True, True),
            True,
            (4, 8, 16),
            "authors_ms",
            "cityscapes",
        ),
    ],
)
def test_variants_are_rows_of_the_papers_tables(
    row, backbone, attention, scaling, multi_grid, protocol, name
):
    recipe = read_recipe(cityscapes.get_config(row).to_dict())
    assert recipe.model.backbone == backbone
    assert (recipe.model.position_attention, recipe.model.channel_attention) == attention
    assert recipe.dataset.random_scale is scaling
    assert recipe.model.multi_grid == multi_grid
    assert recipe.evaluation.protocol == protocol
    assert recipe.name == name
    assert recipe.training.learning_rate == (0.01 if attention == (False, False) else 0.003)


@pytest.mark.parametrize("row", ["resnet50,pan", "pam,cam"])
def test_unknown_variants_are_refused(row):
    with refused() as caught:
        cityscapes.get_config(row)
    assert row in str(caught.value)
