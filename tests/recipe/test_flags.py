"""The recipe of a mode: that of a file or of a run, changed by flags, with current and deprecated names of options."""

import json
import pathlib

import pytest
from absl import flags

from danet_jax.classes import Classes
from danet_jax.command.recipe_file import read_config_and_flags
from danet_jax.recipe import Recipe, read_recipe
from danet_jax.runs.directory import write_description
from tests.reference.refusal import refused

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
CAMVID = str(CONFIGS / "camvid.py")


def read(*arguments, file=None, workdir=None):
    """(arguments after the flags, recipe, options set by flags, notes about deprecated names)."""
    notes = []
    rest, config, changed = read_config_and_flags(file, workdir, ["run.py", *arguments], CONFIGS, notes)
    return rest, config and read_recipe(config.to_dict()), changed, notes


@pytest.fixture
def run(tmp_path):
    """The directory of a run whose config.json is of version 0.2."""
    config = Recipe().as_dict()
    config["init"]["source"] = config["init"].pop("checkpoint") or "resnet18.safetensors"
    config["training"]["steps"] = 7
    write_description(tmp_path, config, Classes.named(["a", "b"]))
    return str(tmp_path)


def test_flags_change_the_options_of_a_recipe_file():
    rest, recipe, changed, notes = read(
        "a.png",
        "--config.training.steps=7",
        "--config.training.log_every=1",
        "--config.training.log_every=0x10",
        "--config.training.learning_rate=1",
        "--config.seed=07",
        "--config.evaluation.flip=true",
        "--config.evaluation.base_size=520",
        "--config.evaluation.window=(96,64)",
        "-config.dataset.class_names",
        "sky, road",
        "--noconfig.dataset.photometric",
        "--config.model.auxiliary",
        "--config.dataset.options.label_offset=1",
        "b.png",
        file=f"{CAMVID}:resnet34",
    )
    assert rest == ["a.png", "b.png"]
    assert (recipe.training.steps, recipe.evaluation.window) == (7, (96, 64))
    assert recipe.dataset.class_names == ("sky", "road")
    assert (recipe.dataset.photometric, recipe.model.auxiliary) == (False, True)
    assert (recipe.training.log_every, recipe.training.learning_rate) == (16, 1.0)
    assert recipe.seed == 7
    assert (recipe.evaluation.flip, recipe.evaluation.base_size) == (True, (520,))
    assert recipe.dataset.options == {"label_offset": 1}
    assert recipe.model.backbone == "resnet34"
    assert changed["training.steps"] == 7
    assert notes == []


def test_without_a_file_flags_change_the_recipe_of_the_run(run, tmp_path):
    _, recipe, changed, _ = read("--config.evaluation.protocol=mmseg", workdir=run)
    assert recipe.training.steps == 7
    assert recipe.protocol().name == "mmseg"
    assert set(changed) == {"evaluation.protocol"}
    assert read("a.png") == (["a.png"], None, {}, [])
    for workdir in (None, str(tmp_path / "none")):
        with refused(what="--config.seed=1"):
            read("--config.seed=1", workdir=workdir)


@pytest.mark.parametrize("flag", ["init.from", "init.source", "init.checkpoint"])
def test_deprecated_flags_of_the_initial_checkpoint(flag):
    for arguments in ([f"--config.{flag}=a.pth"], [f"--config.{flag}", "a.pth"]):
        rest, recipe, _, notes = read(*arguments, file=CAMVID)
        assert recipe.init.checkpoint == "a.pth"
        assert rest == []
        assert [f"--config.{flag} is deprecated" in note for note in notes] == (
            [] if flag == "init.checkpoint" else [True]
        )


def test_runs_and_recipe_files_with_the_deprecated_option(run, tmp_path):
    _, recipe, _, notes = read(workdir=run)
    assert recipe.init.checkpoint == "resnet18.safetensors"
    assert len(notes) == 1
    assert f"{run}/config.json" in notes[0]

    file = tmp_path / "old.py"
    file.write_text(
        "from configs import base\ndef get_config():\n"
        "  config = base.get_config()\n  config.init.source = 'a.pth'\n  return config\n"
    )
    _, recipe, _, notes = read(file=str(file))
    assert recipe.init.checkpoint == "a.pth"
    assert len(notes) == 1
    assert str(file) in notes[0]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--config.training.steps=ten"], "config.training.steps"),
        (["--config.seed=1", "--config.training.steps=ten"], "config.training.steps"),
        (["--config.training={}"], "config.training"),
        (["--config.training.steps.foo=1"], "config.training.steps.foo"),
        (["--config.momentum=0.5"], "config.momentum"),
        (["--config.dataset.options.a.b=1"], "config.dataset.options.a.b"),
        (["--config.training.steps=1", "--config.training.steps=ten"], "config.training.steps"),
        (["--config.dataset.options.label_offset=one"], "config.dataset.options.label_offset"),
        (["--config.seed"], "config.seed"),
        (["--noconfig.model.auxiliary=1"], "config.model.auxiliary"),
        (["--config.init.beta=true"], "config.init.beta"),
        ([f"--config.init.beta={'9' * 400}"], "config.init.beta"),
        (["--config.dataset.options=5", "--config.dataset.options.bits=9"], "config.dataset.options"),
        ([f"--config.seed=0x{'f' * 5000}"], "config.seed"),
        (["--config.=1"], "config."),
    ],
)
def test_invalid_flags_are_named(arguments, what):
    with refused(what=what):
        read(*arguments, file=str(CONFIGS / "folder.py"))


def test_unknown_flags_are_left_to_the_caller():
    with pytest.raises(flags.UnrecognizedFlagError):
        read("--no-such-flag", file=CAMVID)


def test_a_run_with_an_invalid_recipe_is_refused(run):
    file = pathlib.Path(run, "config.json")
    config = json.loads(file.read_text())
    for group, value in (("training", {"steps": 0}), ("dataset", None), ("nonsense", {})):
        file.write_text(json.dumps({**config, group: value}))
        with refused(what=str(file)):
            read(workdir=run)


def test_the_flip_of_the_evaluation_follows_that_of_the_data():
    assert read(file=CAMVID)[1].protocol().flip
    _, recipe, _, _ = read("--config.dataset.flip=False", file=CAMVID)
    assert not recipe.dataset.flip
    assert not recipe.protocol().flip
    _, recipe, _, _ = read("--config.evaluation.flip=False", file=CAMVID)
    assert recipe.dataset.flip
    assert not recipe.protocol().flip
    for order in (1, -1):
        both = ["--config.dataset.flip=False", "--config.evaluation.flip=True"][::order]
        with refused(what="config.evaluation.flip"):
            read(*both, file=CAMVID)
