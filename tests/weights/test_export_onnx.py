"""The ONNX file, run by onnxruntime."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from danet_jax.classes import Classes
from danet_jax.models import resnet
from danet_jax.models.danet import DANet
from danet_jax.ops.normalize import normalize
from danet_jax.weights.checkpoint import Checkpoint
from danet_jax.weights.export_onnx import export_onnx
from tests.reference.refusal import refused

SIZE = 33, 41


@pytest.fixture
def checkpoint(rng, monkeypatch):
    monkeypatch.setitem(resnet.BLOCKS, "resnet18", (1, 1, 1, 1))
    model = DANet(3, backbone="resnet18")
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))

    def random(path, leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) == 4 else 1
        values = (
            rng.uniform(0.5, 1.0, leaf.shape) if path[-1].key in ("var", "scale", "alpha", "beta") else None
        )
        values = rng.normal(size=leaf.shape) / np.sqrt(fan_in) if values is None else values
        return jnp.asarray(values, jnp.float32)

    variables = {
        collection: jax.tree_util.tree_map_with_path(random, shapes[collection])
        for collection in ("params", "batch_stats")
    }
    classes = Classes.named(["road", "car", "sky"])
    return Checkpoint(model, variables, classes, "made here", config={})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_onnxruntime_gives_the_same_probabilities_for_any_batch(tmp_path, rng, checkpoint, dtype):
    for library in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(library, reason=f"needs {library}: pip install {library}")
    import onnxruntime

    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own
        export_onnx(dataclasses.replace(checkpoint, model=checkpoint.model.clone(dtype=dtype)), path, SIZE)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image_input,), (output,) = session.get_inputs(), session.get_outputs()
    assert (image_input.name, image_input.shape) == ("images", ["batch", *SIZE, 3])
    assert image_input.type == "tensor(uint8)"
    assert (output.name, output.shape) == ("probabilities", ["batch", *SIZE, 3])
    apply = jax.jit(checkpoint.model.apply)
    for batch in (1, 3):
        images = rng.integers(0, 256, (batch, *SIZE, 3), np.uint8)
        (found,) = session.run(None, {"images": images})
        expected = jax.nn.softmax(apply(checkpoint.variables, normalize(jnp.asarray(images))).fusion)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    described = json.loads(session.get_modelmeta().custom_metadata_map["danet_jax"])
    assert described["classes"]["names"] == ["road", "car", "sky"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(("library", "name"), [("jax2onnx", "to_onnx"), ("onnxruntime", "InferenceSession")])
def test_what_a_library_raises_is_one_line(tmp_path, checkpoint, monkeypatch, library, name):
    def fails(*_, **__):
        raise RuntimeError("Type (tensor(float)) does not match\nand more")

    for needed in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(needed, reason=f"needs {needed}: pip install {needed}")
    import onnx

    graph = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    monkeypatch.setattr("jax2onnx.to_onnx", lambda *_, **__: graph)
    monkeypatch.setattr(f"{library}.{name}", fails)
    with refused(tmp_path / "model.onnx") as caught:
        export_onnx(checkpoint, tmp_path / "model.onnx", SIZE)
    assert library in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_without_the_libraries_it_says_what_to_install(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jax2onnx", None)
    with refused("--format=onnx"):
        export_onnx(checkpoint, tmp_path / "model.onnx", SIZE)
