"""Exported networks are the same when they are read back, by other libraries too."""

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
from danet_jax.models.options import options_of
from danet_jax.models.resnet import ResNet
from danet_jax.modes import export as mode
from danet_jax.ops.normalize import normalize
from danet_jax.runs.checkpoints import Checkpoints
from danet_jax.runs.directory import write_description
from danet_jax.runs.stored import describe
from danet_jax.weights import export_files
from danet_jax.weights.checkpoint import Checkpoint, load_checkpoint
from danet_jax.weights.convert import convert
from danet_jax.weights.export_files import export_safetensors, export_torch
from danet_jax.weights.export_onnx import export_onnx
from danet_jax.weights.export_stablehlo import (
    check_program,
    export_for_all_platforms,
    export_stablehlo,
    whole_image,
)
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


@pytest.fixture
def checkpoint(rng):
    return make_checkpoint(rng)[0]


@pytest.fixture
def fcn(rng):
    """A checkpoint of a network without attention, which compiles quickly."""
    return make_checkpoint(rng, **VARIANTS["FCN"])[0]


def assert_equal(a: Checkpoint, b: Checkpoint) -> None:
    assert a.model == b.model
    assert a.classes == b.classes
    assert a.config == b.config
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_weights_and_options_are_exported_unchanged(tmp_path, rng, options):
    checkpoint, network = make_checkpoint(rng, **options)
    model = checkpoint.model.clone(attention_backend="blockwise", dtype=jnp.bfloat16)
    checkpoint = dataclasses.replace(checkpoint, model=model)
    export_safetensors(checkpoint, tmp_path / "folder" / "model.safetensors")
    assert_equal(load_checkpoint(tmp_path / "folder" / "model.safetensors"), checkpoint)
    with safe_open(tmp_path / "folder" / "model.safetensors", "numpy") as file:
        described = json.loads(file.metadata()["danet_jax"])
        assert file.get_tensor("params/backbone/layer4_0/conv2/kernel").shape == (3, 3, 512, 512)
    assert described["classes"]["names"] == ["road", "car", "sky"]
    assert described["config"]["evaluation"] == {"protocol": "whole"}
    assert described["model"]["output_stride"] == options.get("output_stride", 8)

    export_torch(checkpoint, tmp_path / "model.pth")
    assert_equal(load_checkpoint(tmp_path / "model.pth"), checkpoint)
    state_dict = torch.load(tmp_path / "model.pth", weights_only=True)["state_dict"]
    other = torch_danet.DANet(3, backbone="resnet18", **options)
    other.load_state_dict(state_dict, strict=True)
    images = torch.from_numpy(rng.normal(size=(1, 3, 33, 41)).astype(np.float32))
    with torch.no_grad():
        for found, expected in zip(other.eval()(images), network(images), strict=True):
            assert found is expected is None or torch.equal(found, expected)
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


def test_stablehlo_needs_only_jax(tmp_path, rng, checkpoint):
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
def test_exported_probabilities_give_the_predicted_labels(rng, size, changes):
    model, variables, _ = small_networks(rng)
    images = rng.integers(0, 256, (1, 41, 57, 3), np.uint8)
    protocol = Protocol.whole().replace(**changes).for_network(model.align_corners)
    function = functools.partial(probabilities, protocol, model)
    program = export_for_all_platforms(function, variables, size, jnp.uint8)
    found = np.asarray(program.call(variables, images))
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    segment = Segmenter(model, variables, protocol)
    scores = segment.scores(images)
    clear = np.sort(scores)[..., -1] > (1 + 1e-4) * np.sort(scores)[..., -2]
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found.argmax(-1)[clear], segment(images)[clear])


def test_the_metadata_contain_the_protocol(tmp_path, fcn, capsys):
    windows = {"dataset": {"name": "folder"}, "evaluation": {"protocol": "mmseg", "mean": [0.3, 0.5, 0.6]}}
    export_safetensors(dataclasses.replace(fcn, config=windows), tmp_path / "in.safetensors")
    mode.run(None, tmp_path, ["33x41"], checkpoint=str(tmp_path / "in.safetensors"), format="stablehlo")
    [line] = [line for line in capsys.readouterr().out.splitlines() if "whole images" in line]
    assert "mmseg" in line
    with zipfile.ZipFile(tmp_path / "export" / "model.stablehlo.zip") as file:
        (tmp_path / "w.safetensors").write_bytes(file.read("weights.safetensors"))
    with safe_open(tmp_path / "w.safetensors", "numpy") as file:
        metadata = file.metadata()
    exported, of_run = json.loads(metadata["protocol"]), json.loads(metadata["protocol_of_run"])
    assert (exported["window"], exported["mean"]) == (None, [0.3, 0.5, 0.6])
    assert of_run["window"] == [769, 769]

    scaled = {"dataset": {"name": "folder"}, "evaluation": {"scales": [0.5]}}
    export_safetensors(dataclasses.replace(fcn, config=scaled), tmp_path / "in.safetensors")
    with refused():
        mode.run(None, tmp_path, [], checkpoint=str(tmp_path / "in.safetensors"), format="stablehlo")


def test_stablehlo_of_one_size_in_bfloat16(tmp_path, checkpoint):
    checkpoint = dataclasses.replace(checkpoint, model=checkpoint.model.clone(dtype=jnp.bfloat16))
    path = tmp_path / "model.stablehlo.zip"
    export_stablehlo(checkpoint, path, (33, 41))
    with zipfile.ZipFile(path) as file:
        program = jax.export.deserialize(bytearray(file.read("program")))
    assert str(program.in_avals[-1].shape) == "(batch, 33, 41, 3)"


def test_a_file_that_differs_when_it_is_read_back_is_deleted(tmp_path, fcn, monkeypatch):
    other = jax.tree.map(lambda x: x + 1, fcn.variables)
    monkeypatch.setattr(
        export_files,
        "load_checkpoint",
        lambda path: dataclasses.replace(load_checkpoint(path), variables=other),
    )
    path = tmp_path / "model.safetensors"
    with refused(path):
        export_safetensors(fcn, path)
    assert list(tmp_path.iterdir()) == []


def test_a_program_with_other_results_is_refused(tmp_path, fcn):
    with refused(tmp_path / "model"):
        check_program(fcn, lambda images: np.zeros(images.shape), [(33, 41)], tmp_path / "model", whole_image)


def test_the_mode_exports_and_refuses_invalid_arguments(tmp_path, fcn, capsys, monkeypatch):
    export_safetensors(fcn, tmp_path / "in.safetensors")
    source = str(tmp_path / "in.safetensors")
    for name, suffix in (("safetensors", "safetensors"), ("torch", "pth")):
        assert mode.run(None, tmp_path / "run", [], checkpoint=source, format=name) == 0
        assert_equal(load_checkpoint(tmp_path / "run" / "export" / f"model.{suffix}"), fcn)
    out = capsys.readouterr().out
    assert "an exported run: resnet18" in out
    assert "MB, verified" in out
    for arguments, checkpoint_path, format_, what in (
        ([], source, "", "--format"),
        ([], source, "pickle", "--format"),
        (["512"], source, "onnx", "512"),
        (["512x512", "x"], source, "onnx", "512x512 x"),
        (["512x512"], source, "torch", "512x512"),
        ([], "", "torch", tmp_path / "run"),
        ([], "nothing.pth", "torch", "nothing.pth"),
    ):
        with refused(what):
            mode.run(None, tmp_path / "run", arguments, checkpoint=checkpoint_path, format=format_)
    backbone = Checkpoint(ResNet("resnet18"), {}, None, "a backbone")
    monkeypatch.setattr(mode, "load_checkpoint", lambda _: backbone)
    with refused(source):
        mode.run(None, tmp_path / "run", [], checkpoint=source, format="torch")


def test_without_a_run_the_protocol_is_that_of_whole_images(tmp_path, fcn):
    source = tmp_path / "in.safetensors"
    export_safetensors(dataclasses.replace(fcn, config={}), source)
    assert mode.run(None, tmp_path, [], checkpoint=str(source), format="safetensors") == 0
    with safe_open(tmp_path / "export" / "model.safetensors", "numpy") as file:
        protocol, described = (json.loads(file.metadata()[key]) for key in ("protocol", "danet_jax"))
    assert (protocol["name"], protocol["scales"], protocol["window"]) == ("whole", [1.0], None)
    assert described["classes"] == {"names": list(CLASSES.names), "colours": list(map(list, CLASSES.colours))}


def test_onnx_reports_that_it_computes_in_float32(tmp_path, fcn, capsys, monkeypatch):
    export_safetensors(fcn, tmp_path / "in.safetensors")
    (tmp_path / "export").mkdir()
    monkeypatch.setattr(mode, "export_onnx", lambda _, path, *rest: path.write_bytes(b""))
    for dtype, reported in (("float32", False), ("bfloat16", True)):
        source = str(tmp_path / "in.safetensors")
        mode.run(None, tmp_path, [], checkpoint=source, format="onnx", overrides={"dtype": dtype})
        assert ("in float32" in capsys.readouterr().out) == reported


def test_a_run_is_loaded_and_exported_from_its_directory(tmp_path, fcn):
    run = tmp_path / "run"
    config = {**fcn.config, "model": options_of(fcn.network)}
    write_description(run, config, CLASSES)
    described = describe(fcn.network, CLASSES)
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(7, dict(fcn.variables), {"step": jnp.int32(7)}, {"examples": 0}, described)
    loaded = load_checkpoint(run)
    assert_equal(loaded, dataclasses.replace(fcn, config=loaded.config))
    assert loaded.config["evaluation"] == {"protocol": "whole"}
    assert loaded.description.startswith("a run, step 7: resnet18 with stem v1, no attention, 3 classes")
    assert load_checkpoint(run, align_corners=False).model.align_corners is False

    assert mode.run(None, run, [], format="safetensors") == 0
    with safe_open(run / "export" / "model.safetensors", "numpy") as file:
        protocol = json.loads(file.metadata()["protocol"])
    assert (protocol["name"], protocol["scales"], protocol["merge"]) == ("whole", [1.0], "softmax")
    exported = load_checkpoint(run / "export" / "model.safetensors")
    assert_equal(exported, loaded)


def test_flipped_bits_of_an_exported_file_are_detected(rng, tmp_path, checkpoint):
    export_safetensors(checkpoint, tmp_path / "model.safetensors")
    export_torch(checkpoint, tmp_path / "model.pth")
    content = (tmp_path / "model.safetensors").read_bytes()
    header = int.from_bytes(content[:8], "little")
    with zipfile.ZipFile(tmp_path / "model.pth") as file:
        largest = max(file.infolist(), key=lambda member: member.file_size)
    start = largest.header_offset + 4096  # between the members lies padding that is never read
    for name, offsets in (
        ("model.safetensors", rng.integers(8 + header // 2, 8 + header, 6)),
        ("model.safetensors", rng.integers(8 + header, len(content), 6)),
        ("model.pth", rng.integers(start, start + largest.file_size - 8192, 6)),
    ):
        intact = (tmp_path / name).read_bytes()
        for offset in offsets:
            damaged = bytearray(intact)
            damaged[int(offset)] ^= 1 << int(rng.integers(8))
            (tmp_path / "damaged").write_bytes(damaged)
            with refused(tmp_path / "damaged"):
                load_checkpoint(tmp_path / "damaged")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk without space")
@pytest.mark.parametrize("export", [export_safetensors, export_torch, export_stablehlo])
def test_a_full_disk(tmp_path, fcn, export):
    path = tmp_path / "model"
    path.write_bytes(b"an earlier export")
    (tmp_path / f".{os.getpid()}.model").symlink_to("/dev/full")
    with refused(path):
        export(fcn, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert path.read_bytes() == b"an earlier export"


def test_exports_contain_no_paths_of_the_user(tmp_path, fcn):
    dataset = {"name": "folder", "root": "secret", "data_dir": "secret", "options": {"list": "secret/a.txt"}}
    config = {
        "dataset": dataset,
        "init": {"checkpoint": "secret", "source": "secret"},
        "compilation_cache": "secret",
        "evaluation": {"protocol": "whole"},
    }
    fcn = dataclasses.replace(fcn, config=config)
    for export, path in ((export_safetensors, tmp_path / "a"), (export_torch, tmp_path / "b")):
        export(fcn, path)
        assert b"secret" not in path.read_bytes()
        kept = load_checkpoint(path).config
        assert (kept["dataset"]["name"], kept["evaluation"]) == ("folder", {"protocol": "whole"})


def test_onnxruntime_returns_the_same_probabilities_for_any_batch_size(tmp_path, rng, checkpoint):
    """A network in bfloat16 is computed in float32, as ONNX runtimes do."""
    for library in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(library, reason=f"needs {library}: pip install {library}")
    import onnxruntime

    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the libraries
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
def test_errors_of_a_library_become_one_line(tmp_path, checkpoint, monkeypatch, library, name):
    def fails(*_, **__):
        raise RuntimeError("Type (tensor(float)) does not match\nand more")

    for needed in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(needed, reason=f"needs {needed}: pip install {needed}")
    import onnx

    graph = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    monkeypatch.setattr("jax2onnx.to_onnx", lambda *_, **__: graph)
    monkeypatch.setattr(f"{library}.{name}", fails)
    with refused(tmp_path / "model.onnx") as caught:
        export_onnx(checkpoint, tmp_path / "model.onnx", (33, 41))
    assert library in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_reported(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jax2onnx", None)
    with refused("--format=onnx"):
        export_onnx(checkpoint, tmp_path / "model.onnx", (33, 41))
