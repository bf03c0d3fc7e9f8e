"""What a run left behind, damaged or changed: found, named, and the checkpoint before it taken."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

from danet_jax import InputError
from danet_jax.classes import Classes
from danet_jax.models.variables import variables_of
from danet_jax.runs.checkpoints import Checkpoints
from danet_jax.runs.directory import read_run, write_description
from danet_jax.runs.stored import describe, read_scores, refuse_changed


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
    assert "from the checkpoint of step 4" in output.err
    assert "from step 4" in output.out
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
        ("classes.json", lambda c: c["names"].__setitem__(0, 3), "class name 3 must be text"),
        ("classes.json", lambda c: c["colours"].pop(), "9 class names but 8 colours"),
        ("classes.json", lambda c: c["colours"][0].pop(), "colours"),
        (
            "classes.json",
            lambda c: c["colours"][0].__setitem__(0, 999),
            "colours",
        ),
        (
            "classes.json",
            lambda c: c["colours"].__setitem__(0, "red"),
            "colours",
        ),
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
