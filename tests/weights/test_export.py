"""What is exported is read back, by other libraries too, and gives the same network."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import warnings
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors import safe_open

from danet_jax.classes import Classes
from danet_jax.inference.exporting import probabilities
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.segmenter import Segmenter
from danet_jax.models import resnet
from danet_jax.models.danet import DANet
from danet_jax.models.resnet import ResNet
from danet_jax.modes import export as mode
from danet_jax.ops.normalize import normalize
from danet_jax.runs.checkpoints import Checkpoints
from danet_jax.runs.directory import write_description
from danet_jax.runs.stored import describe
from danet_jax.weights import export_files
from danet_jax.weights.checkpoint import Checkpoint, load_checkpoint
from danet_jax.weights.convert import convert
from danet_jax.weights.description import Description
from danet_jax.weights.export_files import export_safetensors, export_torch
from danet_jax.weights.export_onnx import export_onnx
from danet_jax.weights.export_stablehlo import check, export_stablehlo, exported_for_all, whole_image
from tests.reference import torch_danet, torch_resnet
from tests.reference.refusal import refused
from tests.reference.small_network import small_networks

CLASSES = Classes(("road", "car", "sky"), ((128, 64, 128), (0, 0, 142), (70, 130, 180)))
VARIANTS = {
    "all of it": {"multi_grid": (4, 8, 16), "auxiliary": True},
    "position only, deep stem": {"channel_attention": False, "stem": "v1s", "align_corners": False},
    "FCN": {"position_attention": False, "channel_attention": False, "output_stride": 16},
}


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """One block per layer, so that programs compile quickly."""
    for blocks in (resnet.BLOCKS, torch_resnet.BLOCKS):
        monkeypatch.setitem(blocks, "resnet18", (1, 1, 1, 1))


def make_checkpoint(rng, **options) -> tuple[Checkpoint, torch.nn.Module]:
    network = torch_danet.randomise(torch_danet.DANet(3, backbone="resnet18", **options), rng)
    variables = convert({name: tensor.numpy() for name, tensor in network.state_dict().items()}).variables
    model = DANet(3, backbone="resnet18", **options)
    config = {"dataset": {"name": "folder"}, "evaluation": {"protocol": "whole"}}
    checkpoint = Checkpoint(model, jax.tree.map(jnp.array, variables), CLASSES, "made here", config=config)
    return checkpoint, network


def same(a: Checkpoint, b: Checkpoint) -> None:
    assert a.model == b.model
    assert a.classes == b.classes
    assert a.config == b.config
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)


def test_every_option_goes_out_and_comes_in(tmp_path, rng):
    checkpoint, _ = make_checkpoint(rng)
    options = {"attention_backend": "blockwise", "dtype": jnp.bfloat16, "output_stride": 16}
    checkpoint = dataclasses.replace(checkpoint, model=checkpoint.model.clone(**options))
    export_torch(checkpoint, tmp_path / "model.pth")
    same(load_checkpoint(tmp_path / "model.pth"), checkpoint)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_weights_go_out_and_come_in_unchanged(tmp_path, rng, options):
    checkpoint, network = make_checkpoint(rng, **options)
    export_safetensors(checkpoint, tmp_path / "folder" / "model.safetensors")
    same(load_checkpoint(tmp_path / "folder" / "model.safetensors"), checkpoint)
    with safe_open(tmp_path / "folder" / "model.safetensors", "numpy") as file:
        described = json.loads(file.metadata()["danet_jax"])
        assert file.get_tensor("params/backbone/layer4_0/conv2/kernel").shape == (3, 3, 512, 512)
    assert described["classes"]["names"] == ["road", "car", "sky"]
    assert described["config"]["evaluation"] == {"protocol": "whole"}
    assert described["model"]["output_stride"] == options.get("output_stride", 8)

    export_torch(checkpoint, tmp_path / "model.pth")
    same(load_checkpoint(tmp_path / "model.pth"), checkpoint)
    state_dict = torch.load(tmp_path / "model.pth", weights_only=True)["state_dict"]
    other = torch_danet.DANet(3, backbone="resnet18", **options)
    other.load_state_dict(state_dict, strict=True)
    images = torch.from_numpy(rng.normal(size=(1, 3, 33, 41)).astype(np.float32))
    with torch.no_grad():
        for ours, theirs in zip(other.eval()(images), network(images), strict=True):
            assert ours is theirs is None or torch.equal(ours, theirs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "model.pth"]


LOADER = """
import sys
import numpy as np
import jax, zipfile
from safetensors.numpy import load
with zipfile.ZipFile("model.stablehlo.zip") as file:
    program = jax.export.deserialize(bytearray(file.read("program")))
    weights = load(file.read("weights.safetensors"))
for name in sys.argv[1:]:
    images = np.load(name + ".npy")
    probabilities = program.call(weights, images)
    np.save(name + "_out.npy", probabilities)
assert not any(name.startswith(("danet_jax", "flax")) for name in sys.modules)
print(program.platforms)
"""


def test_stablehlo_runs_where_only_jax_is_installed(tmp_path, rng):
    checkpoint, _ = make_checkpoint(rng)
    export_stablehlo(checkpoint, tmp_path / "model.stablehlo.zip")
    sizes = {"a": (1, 33, 41), "b": (2, 50, 24)}
    for name, (batch, height, width) in sizes.items():
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (batch, height, width, 3), np.uint8))
    run = subprocess.run(
        [sys.executable, "-c", LOADER, *sizes], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "('cpu', 'cuda', 'tpu')"
    apply = jax.jit(checkpoint.model.apply)
    for name in sizes:
        images = np.load(tmp_path / f"{name}.npy")
        expected = jax.nn.softmax(apply(checkpoint.variables, normalize(jnp.asarray(images))).fusion)
        np.testing.assert_allclose(np.load(tmp_path / f"{name}_out.npy"), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        ((41, 57), {"scales": (1.5,), "flip": True, "merge": "exp"}),
        (None, {"base_size": (96, 60), "mean": (0.3, 0.5, 0.6), "image_resize": "uint8"}),
        (None, {"base_size": 50}),
    ],
)
def test_exported_labels_are_predicted_ones(rng, size, changes):
    model, variables, _ = small_networks(rng)
    images = rng.integers(0, 256, (1, 41, 57, 3), np.uint8)
    protocol = Protocol.whole().replace(**changes).for_network(model.align_corners)
    function = functools.partial(probabilities, protocol, model)
    program = exported_for_all(function, variables, size, jnp.uint8)
    found = np.asarray(program.call(variables, images))
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    segment = Segmenter(model, variables, protocol)
    scores = segment.scores(images)
    clear = np.sort(scores)[..., -1] > (1 + 1e-4) * np.sort(scores)[..., -2]
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found.argmax(-1)[clear], segment(images)[clear])


def test_an_exported_file_says_what_it_holds(tmp_path, rng, capsys):
    checkpoint, _ = make_checkpoint(rng, **VARIANTS["FCN"])
    windows = {"dataset": {"name": "folder"}, "evaluation": {"protocol": "mmseg", "mean": [0.3, 0.5, 0.6]}}
    export_safetensors(dataclasses.replace(checkpoint, config=windows), tmp_path / "in.safetensors")
    mode.run(None, tmp_path, ["33x41"], checkpoint=str(tmp_path / "in.safetensors"), format="stablehlo")
    said = [line for line in capsys.readouterr().out.splitlines() if "whole images" in line]
    assert len(said) == 1
    assert "mmseg" in said[0]
    with zipfile.ZipFile(tmp_path / "export" / "model.stablehlo.zip") as file:
        (tmp_path / "w.safetensors").write_bytes(file.read("weights.safetensors"))
    with safe_open(tmp_path / "w.safetensors", "numpy") as file:
        metadata = file.metadata()
    held, of_run = json.loads(metadata["protocol"]), json.loads(metadata["protocol_of_run"])
    assert (held["window"], held["mean"]) == (None, [0.3, 0.5, 0.6])
    assert of_run["window"] == [769, 769]

    scaled = {"dataset": {"name": "folder"}, "evaluation": {"scales": [0.5]}}
    export_safetensors(dataclasses.replace(checkpoint, config=scaled), tmp_path / "in.safetensors")
    with refused():
        mode.run(None, tmp_path, [], checkpoint=str(tmp_path / "in.safetensors"), format="stablehlo")


def test_stablehlo_of_one_size_is_bound_to_it_and_in_bfloat16_compared_more_loosely(tmp_path, rng):
    checkpoint, _ = make_checkpoint(rng)
    checkpoint = dataclasses.replace(checkpoint, model=checkpoint.model.clone(dtype=jnp.bfloat16))
    path = tmp_path / "model.stablehlo.zip"
    export_stablehlo(checkpoint, path, (33, 41))
    with zipfile.ZipFile(path) as file:
        program = jax.export.deserialize(bytearray(file.read("program")))
    assert str(program.in_avals[-1].shape) == "(batch, 33, 41, 3)"


def test_a_file_that_does_not_read_back_equal_is_not_kept(tmp_path, rng, monkeypatch):
    checkpoint, _ = make_checkpoint(rng, **VARIANTS["FCN"])
    wrong = jax.tree.map(lambda x: x + 1, checkpoint.variables)
    monkeypatch.setattr(export_files, "load_checkpoint", lambda path: load_with(path, wrong))
    path = tmp_path / "model.safetensors"
    with refused(path):
        export_safetensors(checkpoint, path)
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_computes_something_else_is_not_kept(tmp_path, rng):
    checkpoint, _ = make_checkpoint(rng, **VARIANTS["FCN"])
    with refused(tmp_path / "model"):
        check(checkpoint, lambda images: np.zeros(images.shape), [(33, 41)], tmp_path / "model", whole_image)


def load_with(path, variables):
    loaded = load_checkpoint(path)
    return Checkpoint(loaded.model, variables, loaded.classes, loaded.description, config=loaded.config)


def test_the_mode_writes_and_says_what_is_wrong(tmp_path, rng, capsys, monkeypatch):
    checkpoint, _ = make_checkpoint(rng, **VARIANTS["FCN"])
    export_safetensors(checkpoint, tmp_path / "in.safetensors")
    source = str(tmp_path / "in.safetensors")
    for name, suffix in (("safetensors", "safetensors"), ("torch", "pth")):
        assert mode.run(None, tmp_path / "run", [], checkpoint=source, format=name) == 0
        same(load_checkpoint(tmp_path / "run" / "export" / f"model.{suffix}"), checkpoint)
    out = capsys.readouterr().out
    assert "exported from a run here: resnet18" in out
    assert "MB, read back and equal" in out
    for arguments, checked, format_, what in (
        ([], source, "", "--format"),
        ([], source, "pickle", "--format"),
        (["512"], source, "onnx", "512"),
        (["512x512", "x"], source, "onnx", "512x512 x"),
        (["512x512"], source, "torch", "512x512"),
        ([], "", "torch", tmp_path / "run"),
        ([], "nothing.pth", "torch", "nothing.pth"),
    ):
        with refused(what):
            mode.run(None, tmp_path / "run", arguments, checkpoint=checked, format=format_)
    backbone = Checkpoint(ResNet("resnet18"), {}, None, "a backbone")
    monkeypatch.setattr(mode, "load_checkpoint", lambda _: backbone)
    with refused(source):
        mode.run(None, tmp_path / "run", [], checkpoint=source, format="torch")


def test_the_metadata_hold_a_protocol_without_a_run_too(tmp_path, rng):
    checkpoint, _ = make_checkpoint(rng, **VARIANTS["FCN"])
    source = tmp_path / "in.safetensors"
    export_safetensors(dataclasses.replace(checkpoint, config={}), source)
    assert mode.run(None, tmp_path, [], checkpoint=str(source), format="safetensors") == 0
    with safe_open(tmp_path / "export" / "model.safetensors", "numpy") as file:
        protocol, described = (json.loads(file.metadata()[key]) for key in ("protocol", "danet_jax"))
    assert (protocol["name"], protocol["scales"], protocol["window"]) == ("whole", [1.0], None)
    assert described["classes"] == {"names": list(CLASSES.names), "colours": list(map(list, CLASSES.colours))}


def test_the_mode_says_that_onnx_computes_in_float32(tmp_path, rng, capsys, monkeypatch):
    checkpoint, _ = make_checkpoint(rng, **VARIANTS["FCN"])
    export_safetensors(checkpoint, tmp_path / "in.safetensors")
    (tmp_path / "export").mkdir()
    monkeypatch.setattr(mode, "export_onnx", lambda _, path, *rest: path.write_bytes(b""))
    for dtype, said in (("float32", False), ("bfloat16", True)):
        source = str(tmp_path / "in.safetensors")
        mode.run(None, tmp_path, [], checkpoint=source, format="onnx", overrides={"dtype": dtype})
        assert ("computes in float32" in capsys.readouterr().out) == said


def test_a_run_is_loaded_and_exported_from_its_directory(tmp_path, rng):
    checkpoint, _ = make_checkpoint(rng, **VARIANTS["FCN"])
    run = tmp_path / "run"
    model = Description.of(checkpoint.network, CLASSES, {}).model
    config = {**checkpoint.config, "model": model}
    write_description(run, config, CLASSES)
    described = describe(checkpoint.network, CLASSES)
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(7, dict(checkpoint.variables), {"step": jnp.int32(7)}, {"examples": 0}, described)
    loaded = load_checkpoint(run)
    same(loaded, dataclasses.replace(checkpoint, config=loaded.config))
    assert loaded.config["evaluation"] == {"protocol": "whole"}
    assert loaded.description.startswith(
        "of a run here, step 7: resnet18 with stem v1, no attention, 3 classes"
    )
    assert load_checkpoint(run, align_corners=False).model.align_corners is False

    assert mode.run(None, run, [], format="safetensors") == 0
    with safe_open(run / "export" / "model.safetensors", "numpy") as file:
        protocol = json.loads(file.metadata()["protocol"])
    assert (protocol["name"], protocol["scales"], protocol["merge"]) == ("whole", [1.0], "softmax")
    exported = load_checkpoint(run / "export" / "model.safetensors")
    same(exported, loaded)


def test_a_place_that_cannot_be_written(tmp_path, rng):
    checkpoint, _ = make_checkpoint(rng, **VARIANTS["FCN"])
    (tmp_path / "file").write_bytes(b"")
    with refused(tmp_path / "file" / "model.safetensors"):
        export_safetensors(checkpoint, tmp_path / "file" / "model.safetensors")


def test_every_flipped_bit_of_an_exported_file_is_found(rng, tmp_path):
    checkpoint, _ = make_checkpoint(rng)
    export_safetensors(checkpoint, tmp_path / "model.safetensors")
    export_torch(checkpoint, tmp_path / "model.pth")
    content = (tmp_path / "model.safetensors").read_bytes()
    header = int.from_bytes(content[:8], "little")
    with zipfile.ZipFile(tmp_path / "model.pth") as file:
        largest = max(file.infolist(), key=lambda member: member.file_size)
    start = largest.header_offset + 4096  # between the members lies padding that is never read
    for name, places in (
        ("model.safetensors", rng.integers(8 + header // 2, 8 + header, 6)),
        ("model.safetensors", rng.integers(8 + header, len(content), 6)),
        ("model.pth", rng.integers(start, start + largest.file_size - 8192, 6)),
    ):
        intact = (tmp_path / name).read_bytes()
        for place in places:
            damaged = bytearray(intact)
            damaged[int(place)] ^= 1 << int(rng.integers(8))
            (tmp_path / "damaged").write_bytes(damaged)
            with refused(tmp_path / "damaged"):
                load_checkpoint(tmp_path / "damaged")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk without space")
@pytest.mark.parametrize("export", [export_safetensors, export_torch, export_stablehlo])
def test_a_full_disk(tmp_path, rng, export):
    checkpoint, _ = make_checkpoint(rng, **VARIANTS["FCN"])
    path = tmp_path / "model"
    path.write_bytes(b"an earlier export")
    (tmp_path / f".{os.getpid()}.model").symlink_to("/dev/full")
    with refused(path):
        export(checkpoint, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert path.read_bytes() == b"an earlier export"


def test_exports_say_nothing_of_the_users_file_system(tmp_path, rng):
    checkpoint, _ = make_checkpoint(rng, **VARIANTS["FCN"])
    places = {"name": "folder", "root": "secret", "data_dir": "secret", "options": {"list": "secret/a.txt"}}
    config = {
        "dataset": places,
        "init": {"checkpoint": "secret", "source": "secret"},
        "compilation_cache": "secret",
        "evaluation": {"protocol": "whole"},
    }
    checkpoint = dataclasses.replace(checkpoint, config=config)
    for export, path in ((export_safetensors, tmp_path / "a"), (export_torch, tmp_path / "b")):
        export(checkpoint, path)
        assert b"secret" not in path.read_bytes()
        kept = load_checkpoint(path).config
        assert (kept["dataset"]["name"], kept["evaluation"]) == ("folder", {"protocol": "whole"})


def test_onnxruntime_gives_the_same_probabilities_for_any_batch(tmp_path, rng):
    """A network in bfloat16 is computed in float32, as ONNX runtimes do."""
    for library in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(library, reason=f"needs {library}: pip install {library}")
    import onnxruntime

    checkpoint, _ = make_checkpoint(rng)
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own
        export_onnx(
            dataclasses.replace(checkpoint, model=checkpoint.model.clone(dtype=jnp.bfloat16)), path, (33, 41)
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image_input,), (output,) = session.get_inputs(), session.get_outputs()
    assert (image_input.name, image_input.shape) == ("images", ["batch", 33, 41, 3])
    assert image_input.type == "tensor(uint8)"
    assert (output.name, output.shape) == ("probabilities", ["batch", 33, 41, 3])
    apply = jax.jit(checkpoint.model.apply)
    for batch in (1, 3):
        images = rng.integers(0, 256, (batch, 33, 41, 3), np.uint8)
        (found,) = session.run(None, {"images": images})
        expected = jax.nn.softmax(apply(checkpoint.variables, normalize(jnp.asarray(images))).fusion)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    described = json.loads(session.get_modelmeta().custom_metadata_map["danet_jax"])
    assert described["classes"]["names"] == ["road", "car", "sky"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(("library", "name"), [("jax2onnx", "to_onnx"), ("onnxruntime", "InferenceSession")])
def test_what_a_library_raises_is_one_line(tmp_path, rng, monkeypatch, library, name):
    def fails(*_, **__):
        raise RuntimeError("Type (tensor(float)) does not match\nand more")

    for needed in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(needed, reason=f"needs {needed}: pip install {needed}")
    import onnx

    graph = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    monkeypatch.setattr("jax2onnx.to_onnx", lambda *_, **__: graph)
    monkeypatch.setattr(f"{library}.{name}", fails)
    checkpoint, _ = make_checkpoint(rng)
    with refused(tmp_path / "model.onnx") as caught:
        export_onnx(checkpoint, tmp_path / "model.onnx", (33, 41))
    assert library in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_without_the_libraries_it_says_what_to_install(tmp_path, rng, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jax2onnx", None)
    checkpoint, _ = make_checkpoint(rng)
    with refused("--format=onnx"):
        export_onnx(checkpoint, tmp_path / "model.onnx", (33, 41))
