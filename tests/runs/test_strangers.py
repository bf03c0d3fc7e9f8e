"""A stranger's run directory is data, not a program: whatever is in it is a trained network or one line."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorstore
from etils import epath

from danet_jax import DANet, load_checkpoint
from danet_jax.classes import Classes
from danet_jax.models.options import options_of
from danet_jax.models.variables import variables_of
from danet_jax.runs.checkpoints import Checkpoints
from danet_jax.runs.directory import checkpoint_steps, read_run, refuse_half_a_run, write_description
from danet_jax.runs.stored import describe, write_digests
from tests.reference.refusal import refused

MODEL = DANet(2, backbone="resnet18", output_stride=32)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A run's directory as it should be."""
    import jax

    run = tmp_path_factory.mktemp("run")
    classes = Classes.named(["a", "b"])
    variables = jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), variables_of(MODEL))
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(7, variables, {"step": np.int32(7)}, {"examples_taken": 0}, describe(MODEL, classes))
        checkpoints.score(7, {"miou": 0.5})
    write_description(run, {"model": options_of(MODEL)}, classes)
    return run


@pytest.fixture
def run(intact, tmp_path):
    """A copy to be spoilt."""
    return pathlib.Path(shutil.copytree(intact, tmp_path / "run"))


def edit(file, change):
    content = json.loads(file.read_text())
    file.write_text(json.dumps(change(content) or content))


def array(run, change):
    """Changes what the store says of one array, digests and all."""
    item = run / "checkpoints/7/variables"
    base = {"driver": "file", "path": f"{item}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    key = next(
        key for key in store.list().result() if b"classifier" in key and key.endswith(b"kernel/.zarray")
    )
    content = json.loads(store.read(key).result().value)
    change(content)
    store.write(key, json.dumps(content)).result()


def again(run):
    """As one would who knows of the digests."""
    checkpoint = run / "checkpoints/7"
    (checkpoint / "digests.json").unlink()
    write_digests(epath.Path(checkpoint))


def metadata(run, change):
    edit(run / "checkpoints/7/variables/_METADATA", change)


def rename(content):
    tree = content["tree_metadata"]
    name, value = next(iter(tree.items()))
    del tree[name]
    value["key_metadata"][-1]["key"] = "../../../x"
    tree["('params', '../../../x')"] = value


def nested(depth):
    return "[" * depth + "]" * depth


# Reads that TensorStore cancels after the first that failed tell so to an event loop that is closed by then.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SPOILT = {
    "config is a list": lambda run: (run / "config.json").write_text("[1]"),
    "config is null": lambda run: (run / "config.json").write_text("null"),
    "config is nested": lambda run: (run / "config.json").write_text(nested(100_000)),
    "config is huge": lambda run: (run / "config.json").write_bytes(b" " * (1 << 26) + b"{}"),
    "config is endless": lambda run: (
        (run / "config.json").unlink(),
        (run / "config.json").symlink_to("/dev/zero"),
    ),
    "config is a pipe": lambda run: ((run / "config.json").unlink(), os.mkfifo(run / "config.json")),
    "config is a folder": lambda run: ((run / "config.json").unlink(), (run / "config.json").mkdir()),
    "config without a model": lambda run: (run / "config.json").write_text("{}"),
    "config without a dataset": lambda run: edit(run / "config.json", lambda c: c.update(evaluation={})),
    "dataset is null": lambda run: edit(run / "config.json", lambda c: c.update(dataset=None, evaluation={})),
    "key twice": lambda run: (run / "config.json").write_text(
        '{"seed": 1, ' + (run / "config.json").read_text().strip()[1:-1] + ', "seed": 2}'
    ),
    "model is a text": lambda run: edit(run / "config.json", lambda c: c.update(model="x")),
    "backbone is a path": lambda run: edit(run / "config.json", lambda c: c["model"].update(backbone="../x")),
    "option that runs": lambda run: edit(
        run / "config.json", lambda c: c["model"].update(__reduce__="os.system")
    ),
    "dilations are huge": lambda run: edit(
        run / "config.json", lambda c: c["model"].update(multi_grid=[10**9, 1])
    ),
    "stride is a text": lambda run: edit(run / "config.json", lambda c: c["model"].update(output_stride="8")),
    "classes are a million": lambda run: edit(run / "classes.json", lambda c: c.update(names=["x"] * 10**6)),
    "classes are a number": lambda run: edit(run / "classes.json", lambda c: c.update(names=3)),
    "array of terabytes": lambda run: array(run, lambda c: c.update(shape=[2**20, 2**20])),
    "array in huge parts": lambda run: array(run, lambda c: c.update(chunks=[2**20] * len(c["chunks"]))),
    "array of another type": lambda run: array(run, lambda c: c.update(dtype="<f8")),
    "array elsewhere": lambda run: metadata(run, rename),
    "metadata is nested": lambda run: (run / "checkpoints/7/variables/_METADATA").write_text(nested(100_000)),
    "metadata is empty": lambda run: metadata(run, lambda c: c.clear()),
    "scores are texts": lambda run: (run / "checkpoints/7/metrics/metrics").write_text('{"miou": "1"}'),
    "description is a list": lambda run: (run / "checkpoints/7/description/metadata").write_text("[]"),
    "file is a link": lambda run: (run / "checkpoints/7/variables/x").symlink_to("/etc/passwd"),
    "step is no number": lambda run: (run / "checkpoints/7").rename(run / "checkpoints/\u00b2"),
}


def test_what_is_intact_is_loaded(run):
    again(run)
    assert load_checkpoint(run).description.startswith("of a run here, step 7")


@pytest.mark.parametrize("spoilt", SPOILT)
def test_what_is_spoilt_is_one_line(spoilt, run):
    SPOILT[spoilt](run)
    if (run / "checkpoints/7").exists() and spoilt != "file is a link":
        again(run)
    with refused() as caught:
        read_run(run, variables_of)
    assert caught.value.what
    assert str(run) in str(caught.value)


def test_an_array_of_terabytes_takes_no_memory(run):
    SPOILT["array of terabytes"](run)
    again(run)
    code = (
        "import pathlib, re, sys; from danet_jax import InputError, load_checkpoint\n"
        "try:\n    load_checkpoint(sys.argv[1])\nexcept InputError:\n"
        # Of this program; the peak that getrusage tells is that of the process that started it, if that was larger.
        "    print(re.search(r'VmHWM:\\s*(\\d+) kB', pathlib.Path('/proc/self/status').read_text())[1])"
    )
    found = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 2**20  # KiB


def test_what_only_looks_like_a_checkpoint_is_ignored(run):
    shutil.copytree(run / "checkpoints/7", run / "checkpoints/007")
    (run / "checkpoints/99").write_text("")
    (run / "checkpoints/²").mkdir()
    assert checkpoint_steps(run / "checkpoints") == [7]
    assert load_checkpoint(run).config
    (run / "checkpoints/7").rename(run / "checkpoints/07")
    with refused(what=run):
        read_run(run, variables_of)


def test_something_in_the_place_of_checkpoints_is_found_before_any_is_written(tmp_path):
    refuse_half_a_run(tmp_path)
    for make in (lambda path: path.write_text(""), lambda path: path.symlink_to("unmounted")):
        make(tmp_path / "checkpoints")
        with refused(what=tmp_path / "checkpoints"):
            refuse_half_a_run(tmp_path)
        (tmp_path / "checkpoints").unlink()
