"""Programs for an H100 by the CUDA compiler, which needs no GPU: `make test-cuda-compiler`."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import danet_jax
from danet_jax.models import resnet
from danet_jax.models.resnet import ResNet
from danet_jax.ops.attention import position_attention

pytestmark = pytest.mark.cuda_compiler
pytest.importorskip("jax_cuda13_plugin", reason='compiling for an H100 needs pip install "jax[cuda13]"')
H100 = pathlib.Path(danet_jax.__file__).parent / "training" / "h100.txtpb"


@pytest.fixture(scope="module")
def device():
    """The sharding of arrays that lie on one H100."""
    if not H100.exists():
        pytest.skip(f"needs the description of an H100, {H100}")
    topology = topologies.get_topology_desc("", "cuda", target_config=H100.read_text(), topology="1x1x1")
    mesh = Mesh(np.array(topology.devices[:1]).reshape(1, 1), ("data", "space"))
    return NamedSharding(mesh, PartitionSpec())


def windows(text):
    """Extents of the windows of cuDNN's convolutions."""
    calls = [line for line in text.splitlines() if 'custom_call_target="__cudnn$conv' in line]
    assert calls
    return {
        int(n) for line in calls for w in re.findall(r"window=\{size=([\dx]+)", line) for n in w.split("x")
    }


def test_no_convolution_has_the_image_as_its_window(monkeypatch, device):
    monkeypatch.setitem(resnet.BLOCKS, "resnet50", (1, 1, 2, 2))
    model = ResNet("resnet50", multi_grid=(4, 8), dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.bfloat16, sharding=device)
    variables = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        jax.eval_shape(model.init, jax.random.key(0), images),
    )

    def loss(params, rest, images):
        features, updates = model.apply(
            {**rest, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return features.layer4.astype(jnp.float32).sum(), updates

    params, rest = variables["params"], {"batch_stats": variables["batch_stats"]}
    text = jax.jit(jax.grad(loss, has_aux=True)).lower(params, rest, images).compile().as_text()
    assert max(windows(text)) == 7


def test_flash_attention_is_called_as_jax_calls_it(device):
    """The custom calls equal those of jax.nn.dot_product_attention, except for options with default values."""
    batch, positions, heads, width = 2, 256, 4, 128

    def danet(query, key, value, cotangent):
        output, vjp = jax.vjp(position_attention, query, key, value)
        return output, *vjp(cotangent)

    def reference(*arrays):
        query, key, value, cotangent = (x.reshape(batch, positions, -1, width) for x in arrays)
        query, key = (jnp.broadcast_to(x, value.shape) for x in (query, key))
        output, vjp = jax.vjp(
            lambda *x: jax.nn.dot_product_attention(*x, scale=1.0, implementation="cudnn"), query, key, value
        )
        return output, *vjp(cotangent)

    def calls(function):
        channels = width, width, heads * width, heads * width
        specs = [jax.ShapeDtypeStruct((batch, positions, c), jnp.bfloat16, sharding=device) for c in channels]
        found = {}
        for line in jax.jit(function).lower(*specs).as_text().splitlines():
            if call := re.search(r"custom_call @(__cudnn\S+?)\(", line):
                config = re.search(r'backend_config = "(.*?)", ', line)[1].replace("\\22", '"')
                found[call[1]] = (
                    json.loads(config)["cudnn_fmha_backend_config"],
                    re.search(r"operand_layouts = .*", line)[0],
                )
        return found

    actual, expected = calls(danet), calls(reference)
    assert set(actual) == set(expected) == {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
    for name, (config, layouts) in actual.items():
        expected_config, expected_layouts = expected[name]
        assert layouts == expected_layouts
        assert set(config) == set(expected_config)
        for key, value in config.items():
            if isinstance(value, dict):
                assert {k: v for k, v in value.items() if k != "layout"}.items() <= expected_config[
                    key
                ].items()
            elif key != "seed":  # There is no dropout.
                assert value == expected_config[key]
