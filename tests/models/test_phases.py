"""The backbone in phases of its dilations against the backbone without phases, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from danet_jax.models.layers import valid_mask
from danet_jax.models.resnet import ResNet
from tests.reference.tiny_backbone import drawn_variables

pytestmark = pytest.mark.usefixtures("few_blocks")


def network(rng, backbone, output_stride, multi_grid):
    """A float64 network without phases, and variables."""
    model = ResNet(backbone, "v1", output_stride, multi_grid, jnp.float64, phases=False)
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), drawn_variables(rng, model))
    return model, variables


def training(model, variables, images):
    """Features and statistics, and the gradients of a loss with respect to images and parameters."""

    def loss(params, images):
        features, updates = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        maps = features.layer3, features.layer4
        return sum(jnp.sum(jnp.sin(x)) for x in maps), (maps, updates)

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(variables["params"], images)


def largest_difference(one, other):
    return max(
        np.abs(a - b).max() / np.abs(b).max()
        for a, b in zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (one, other)), strict=True)
        if np.abs(b).max() > 0
    )


@pytest.mark.parametrize(
    ("backbone", "multi_grid"),
    [
        pytest.param("resnet50", (4, 8), marks=pytest.mark.slow),
        ("resnet18", None),
    ],
    ids=str,
)
def test_training_equals_that_without_phases(rng, backbone, multi_grid):
    """Sizes are odd, so that phases are padded, which must not affect convolutions or statistics."""
    with jax.enable_x64(True):
        images = jnp.asarray(rng.normal(size=(2, *(int(n) for n in rng.integers(50, 80, 2)), 3)))
        print(images.shape)
        model, variables = network(rng, backbone, 8, multi_grid)
        results = [training(model.clone(phases=phases), variables, images) for phases in (True, False)]
        assert largest_difference(*results) < 1e-9


@pytest.mark.parametrize(
    ("backbone", "output_stride", "multi_grid"), [("resnet50", 8, None), ("resnet18", 16, (3, 6))], ids=str
)
def test_padded_images(rng, backbone, output_stride, multi_grid):
    with jax.enable_x64(True):
        images = rng.normal(size=(2, 70, 90, 3))
        images[1, 40:], images[1, :, 55:] = 0, 0
        sizes = jnp.array([[70, 90], [40, 55]])
        model, variables = network(rng, backbone, output_stride, multi_grid)

        def features(phases):
            found = jax.jit(model.clone(phases=phases).apply)(variables, jnp.asarray(images), sizes=sizes)
            return [jnp.where(valid_mask(x, found.sizes4), x, 0.0) for x in (found.layer3, found.layer4)]

        assert largest_difference(features(True), features(False)) < 1e-9


def test_phases_are_used_only_on_tpus_and_without_sharded_rows():
    mesh = jax.make_mesh((2, 4), ("data", "space"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    sharded = jax.ShapeDtypeStruct(
        images.shape, images.dtype, sharding=jax.NamedSharding(mesh, jax.P("data", "space"))
    )
    model = ResNet("resnet18")
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def program(phases, images):
        return jax.jit(model.clone(phases=phases).apply).lower(variables, images).as_text()

    assert program(None, images) == program(False, images) != program(True, images)
    assert program(True, sharded) == program(False, sharded)
