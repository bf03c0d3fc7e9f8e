"""The backbone in phases of its dilations against the same without, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from danet_jax.models import resnet
from danet_jax.models.layers import inside
from danet_jax.models.resnet import ResNet


@pytest.fixture(autouse=True)
def _few_blocks(monkeypatch):
    monkeypatch.setitem(resnet.BLOCKS, "resnet50", (1, 1, 2, 3))
    monkeypatch.setitem(resnet.BLOCKS, "resnet18", (1, 1, 2, 2))


def network(rng, backbone, output_stride, multi_grid, images):
    """A float64 network and variables that no batch would give."""
    model = ResNet(backbone, "v1", output_stride, multi_grid, jnp.float64, phases=False)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)

    def drawn(path, leaf):
        name = path[-1].key
        if name == "var" or name == "scale":
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape))
        spread = 0.1 if name != "kernel" else (2 / np.prod(leaf.shape[:3])) ** 0.5
        return jnp.asarray(spread * rng.normal(size=leaf.shape))

    return model, jax.tree_util.tree_map_with_path(drawn, shapes)


def everything(model, variables, images, sizes=None, *, train):
    """Features and statistics, and the gradients of a loss of them to images and parameters."""

    def loss(params, images):
        features, updates = model.apply(
            {**variables, "params": params}, images, train=train, sizes=sizes, mutable=["batch_stats"]
        )
        maps = [features.layer3, features.layer4]
        if sizes is not None:
            maps = [jnp.where(inside(x, features.sizes4), x, 0.0) for x in maps]
        return sum(jnp.sum(jnp.sin(x)) for x in maps), (maps, updates)

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(variables["params"], images)


def largest_difference(one, other):
    return max(
        np.abs(a - b).max() / np.abs(b).max()
        for a, b in zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (one, other)), strict=True)
        if np.abs(b).max() > 0
    )


@pytest.mark.parametrize(
    ("backbone", "output_stride", "multi_grid"),
    [
        pytest.param("resnet50", 8, None, marks=pytest.mark.slow),
        ("resnet50", 8, (4, 8, 16)),
        pytest.param("resnet18", 8, None, marks=pytest.mark.slow),
        ("resnet18", 16, (3, 6)),
    ],
    ids=str,
)
def test_training_is_the_same(rng, backbone, output_stride, multi_grid):
    """Odd sizes: what fills the phases up counts neither in convolutions nor in statistics."""
    with jax.enable_x64(True):
        images = jnp.asarray(rng.normal(size=(2, *(int(n) for n in rng.integers(60, 90, 2)), 3)))
        print(images.shape)
        model, variables = network(rng, backbone, output_stride, multi_grid, images)
        run = functools.partial(everything, variables=variables, images=images, train=True)
        assert largest_difference(run(model.clone(phases=True)), run(model)) < 1e-9


def test_images_smaller_than_their_array(rng):
    with jax.enable_x64(True):
        images = rng.normal(size=(2, 70, 90, 3))
        images[1, 40:], images[1, :, 55:] = 0, 0
        images, sizes = jnp.asarray(images), jnp.array([[70, 90], [40, 55]])
        model, variables = network(rng, "resnet50", 8, None, images)
        run = functools.partial(everything, variables=variables, images=images, sizes=sizes, train=False)
        assert largest_difference(run(model.clone(phases=True)), run(model)) < 1e-9


@pytest.mark.slow
def test_rows_over_devices(rng):
    """Rows that are divided stay whole images' rows."""
    mesh = jax.make_mesh((2, 4), ("data", "space"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.enable_x64(True):
        images = jnp.asarray(rng.normal(size=(2, 64, 40, 3)))
        model, variables = network(rng, "resnet50", 8, None, images)
        run = functools.partial(everything, model.clone(phases=True), variables, train=True)
        sharded = jax.device_put(images, jax.NamedSharding(mesh, jax.P("data", "space")))
        assert largest_difference(run(sharded), run(images)) < 1e-9


def test_phases_are_for_tpus():
    """A program traced for this process's CPU has none."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    model = ResNet("resnet18")
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    text = {
        p: str(jax.make_jaxpr(model.clone(phases=p).apply)(variables, images)) for p in (None, False, True)
    }
    assert text[None] == text[False] != text[True]
