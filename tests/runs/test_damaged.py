"""A run's directory that is damaged or comes from an untrusted source is refused, and the file is named."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tensorstore
from etils import epath

from danet_jax import DANet, InputError, load_checkpoint
from danet_jax.classes import Classes
from danet_jax.models import resnet
from danet_jax.models.options import options_of
from danet_jax.models.variables import variable_shapes
from danet_jax.runs.checkpoints import Checkpoints
from danet_jax.runs.directory import checkpoint_steps, refuse_incomplete_run, write_description
from danet_jax.runs.stored import describe, read_run, read_scores, refuse_changed, write_digests
from tests.reference.refusal import refused

# Reads that TensorStore cancels after the first that failed report this to an event loop that is closed by then.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module", autouse=True)
def _small_networks():
    """One block per layer, so that checkpoints are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.BLOCKS, "resnet18", (1, 1, 1, 1))
        yield


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A run's directory as it should be."""
    run = tmp_path_factory.mktemp("run")
    model, classes = DANet(2, backbone="resnet18", output_stride=32), Classes.named(["a", "b"])
    variables = jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), variable_shapes(model))
    progress = {"step": np.int32(7), "trace": np.ones((8, 9))}
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(7, variables, progress, {"examples_taken": 0}, describe(model, classes))
        checkpoints.score(7, {"miou": 0.5})
    write_description(run, {"model": options_of(model)}, classes)
    return run


@pytest.fixture
def run(intact, tmp_path):
    """A copy to damage."""
    return pathlib.Path(shutil.copytree(intact, tmp_path / "run"))


def a_file(checkpoint, rng, below="**"):
    """One of a checkpoint's files that are not empty, but not the one with the time of writing, which has no digest."""
    files = [path for path in checkpoint.glob(f"{below}/*") if path.is_file() and path.stat().st_size]
    files = sorted(path for path in files if path.name != "_CHECKPOINT_METADATA")
    return files[rng.integers(len(files))]


def test_a_flipped_bit_in_a_checkpoint_is_detected(run, rng):
    checkpoint = run / "checkpoints/7"
    for _ in range(100):
        file = a_file(checkpoint, rng)
        intact = file.read_bytes()
        flipped = bytearray(intact)
        flipped[rng.integers(len(intact))] ^= 1 << rng.integers(8)
        file.write_bytes(flipped)
        with pytest.raises(InputError) as caught:
            (refuse_changed(checkpoint), read_scores(checkpoint))
        assert file.name in str(caught.value)
        file.write_bytes(intact)
    refuse_changed(checkpoint)
    assert read_scores(checkpoint) == {"miou": 0.5}


@pytest.mark.parametrize("damage", ["truncated", "missing", "swapped", "added", "linked"])
def test_a_changed_file_of_a_checkpoint_is_detected(run, rng, tmp_path, damage):
    checkpoint = run / "checkpoints/7"
    file = a_file(checkpoint, rng, "training/**")
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "missing":
        file.unlink()
    elif damage == "swapped":
        shutil.copy(next(checkpoint.glob("variables/d/*")), file)
    elif damage == "added":
        file = file.with_name("more")
        file.write_text("")
    else:
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    with refused(what=file):
        refuse_changed(checkpoint)


def edit(file, change):
    content = json.loads(file.read_text())
    file.write_text(json.dumps(change(content) or content))


def config(change):
    return lambda run: edit(run / "config.json", change)


def classes(change):
    return lambda run: edit(run / "classes.json", change)


def replaced(name, content):
    return lambda run: (run / name).write_bytes(content)


def in_place_of(name, make):
    return lambda run: ((run / name).unlink(), make(run / name))


def metadata(change):
    return lambda run: edit(run / "checkpoints/7/variables/_METADATA", change)


def stored(change):
    """Changes the metadata that TensorStore keeps of one array."""

    def call(run):
        item = run / "checkpoints/7/variables"
        base = {"driver": "file", "path": f"{item}/"}
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
        keys = store.list().result()
        key = next(key for key in keys if b"classifier" in key and key.endswith(b"kernel/.zarray"))
        content = json.loads(store.read(key).result().value)
        change(content)
        store.write(key, json.dumps(content)).result()

    return call


def with_new_digests(run):
    """Writes the digests again, as somebody who forges a checkpoint would."""
    checkpoint = run / "checkpoints/7"
    (checkpoint / "digests.json").unlink()
    write_digests(epath.Path(checkpoint))


def key_twice(run):
    content = (run / "config.json").read_text().strip()
    (run / "config.json").write_text(f'{{"seed": 1, {content[1:-1]}, "seed": 2}}')


def array_elsewhere(content):
    tree = content["tree_metadata"]
    name, value = next(iter(tree.items()))
    del tree[name]
    value["key_metadata"][-1]["key"] = "../../../x"
    tree["('params', '../../../x')"] = value


NESTED = b"[" * 100_000 + b"]" * 100_000
HUGE = stored(lambda c: c.update(shape=[2**20, 2**20]))
HUGE_CHUNKS = stored(lambda c: c.update(chunks=[*c["chunks"][:-2], 2**20, 2**20]))
METADATA = "checkpoints/7/variables/_METADATA"
DESCRIPTION = "checkpoints/7/description/metadata"

# What is damaged -> how, and the field `what` of the error, below the run's directory if it is a file; None is any.
DAMAGED = {
    "config is a list": (replaced("config.json", b"[1]"), "config.json"),
    "config is nested": (replaced("config.json", NESTED), "config.json"),
    "config is no text": (replaced("config.json", b"\xff\x00"), "config.json"),
    "config is cut": (replaced("config.json", b"{"), "config.json"),
    "config is endless": (in_place_of("config.json", lambda x: x.symlink_to("/dev/zero")), "config.json"),
    "config is a pipe": (in_place_of("config.json", os.mkfifo), "config.json"),
    "config with a key twice": (key_twice, "config.json"),
    "config is a folder": (in_place_of("config.json", pathlib.Path.mkdir), "config.json"),
    "config without a model": (replaced("config.json", b"{}"), "config.json"),
    "config without a dataset": (config(lambda c: c.update(evaluation={})), "config.json"),
    "dataset is null": (config(lambda c: c.update(dataset=None, evaluation={})), "config.json"),
    "model is a text": (config(lambda c: c.update(model="x")), "config.json"),
    "backbone is a path": (config(lambda c: c["model"].update(backbone="../x")), "config.json"),
    "option that runs": (config(lambda c: c["model"].update(__reduce__="os.system")), "config.json"),
    "dilations are huge": (config(lambda c: c["model"].update(multi_grid=[10**9, 1])), None),
    "stride is a text": (config(lambda c: c["model"].update(output_stride="8")), "config.json"),
    "another branch": (
        config(lambda c: c["model"].update(position_attention=False)),
        "model.position_attention",
    ),
    "another multi-grid": (config(lambda c: c["model"].update(multi_grid=[4])), "model.multi_grid"),
    "classes are a list": (replaced("classes.json", b"[]"), "classes.json"),
    "classes are cut": (replaced("classes.json", b"{"), "classes.json"),
    "class is a number": (classes(lambda c: c["names"].__setitem__(0, 3)), "classes.json"),
    "classes in another order": (classes(lambda c: c["names"].reverse()), "classes.names"),
    "fewer colours": (classes(lambda c: c["colours"].pop()), "classes.json"),
    "colour too large": (classes(lambda c: c["colours"][0].__setitem__(0, 999)), "classes.json"),
    "another colour": (classes(lambda c: c["colours"][0].__setitem__(0, 7)), "classes.colours"),
    "array of terabytes": (HUGE, None),
    "array in huge chunks": (HUGE_CHUNKS, None),
    "array of another type": (stored(lambda c: c.update(dtype="<f8")), None),
    "array elsewhere": (metadata(array_elsewhere), None),
    "metadata is nested": (replaced(METADATA, NESTED), None),
    "metadata is empty": (metadata(lambda c: c.clear()), None),
    "scores are texts": (replaced("checkpoints/7/metrics/metrics", b'{"miou": "1"}'), None),
    "description is a list": (replaced(DESCRIPTION, b"[]"), DESCRIPTION),
    "description of a number": (replaced(DESCRIPTION, b'{"model": 3}'), None),
    "step is no number": (lambda run: (run / "checkpoints/7").rename(run / "checkpoints/\u00b2"), ""),
}


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_run_is_refused(damaged, run):
    damage, what = DAMAGED[damaged]
    damage(run)
    if (run / "checkpoints/7").exists():
        with_new_digests(run)
    with refused() as caught:
        read_run(run)
    assert caught.value.what
    assert str(run) in str(caught.value)
    if what is not None:
        assert caught.value.what in (what, str(run / what))


def test_an_intact_run_is_loaded(run):
    with_new_digests(run)
    assert load_checkpoint(run).config


@pytest.mark.parametrize("damage", [HUGE, HUGE_CHUNKS], ids=["array", "chunks"])
def test_refusing_an_array_of_terabytes_takes_no_memory(damage, run):
    damage(run)
    with_new_digests(run)
    code = (
        "import pathlib, re, sys; from danet_jax import InputError, load_checkpoint\n"
        "from danet_jax.models import resnet; resnet.BLOCKS['resnet18'] = (1, 1, 1, 1)\n"
        "try:\n    load_checkpoint(sys.argv[1])\nexcept InputError as error:\n"
        # The peak that getrusage reports may be that of the process that started this one.
        "    print(re.search(r'VmHWM:\\s*(\\d+) kB', pathlib.Path('/proc/self/status').read_text())[1])"
    )
    found = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 2**20  # KiB


def test_folders_with_other_names_than_steps_are_ignored(run):
    shutil.copytree(run / "checkpoints/7", run / "checkpoints/007")
    (run / "checkpoints/99").write_text("")
    (run / "checkpoints/²").mkdir()
    assert checkpoint_steps(run / "checkpoints") == [7]
    assert load_checkpoint(run).config
    (run / "checkpoints/7").rename(run / "checkpoints/07")
    with refused(what=run):
        read_run(run)


def test_a_file_or_broken_link_named_checkpoints_is_refused(tmp_path):
    refuse_incomplete_run(tmp_path)
    for make in (lambda path: path.write_text(""), lambda path: path.symlink_to("unmounted")):
        make(tmp_path / "checkpoints")
        with refused(what=tmp_path / "checkpoints"):
            refuse_incomplete_run(tmp_path)
        (tmp_path / "checkpoints").unlink()
