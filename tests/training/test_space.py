"""The axis `space` of the mesh: rows stay divided over devices in the whole training step."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from danet_jax import DANet
from danet_jax.models import resnet
from danet_jax.training.losses import multi_loss, valid_pixels
from danet_jax.training.mesh import make_mesh
from danet_jax.training.optimizer import poly_schedule, sgd
from danet_jax.training.state import create_state, make_train_step


@pytest.mark.parametrize(
    ("data", "space", "batch", "height"), [(4, 2, 8, 64), pytest.param(2, 4, 2, 192, marks=pytest.mark.slow)]
)
def test_no_device_gets_whole_images(monkeypatch, data, space, batch, height):
    """With as many images as devices too: rows go to neighbours, only attention's keys and values are gathered."""
    monkeypatch.setitem(resnet.BLOCKS, "resnet18", (1, 1, 1, 1))
    mesh = make_mesh(data, space)
    optimizer = sgd(poly_schedule(0.01, 10))
    model = DANet(5, backbone="resnet18")
    replicated = NamedSharding(mesh, PartitionSpec())
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
        jax.eval_shape(lambda: create_state(model, optimizer, 0, mesh)),
    )
    divided = NamedSharding(mesh, PartitionSpec("data", "space"))
    images = {
        "image": jax.ShapeDtypeStruct((batch, height, 64, 3), jnp.uint8, sharding=divided),
        "label": jax.ShapeDtypeStruct((batch, height, 64), jnp.uint8, sharding=divided),
    }
    text = make_train_step(model, optimizer).lower(state, images).compile().as_text()
    moved = [line for line in text.splitlines() if re.search(r" (all-gather|all-to-all)(-start)?\(", line)]
    assert moved
    assert [line for line in moved if "position_attention" not in line] == []
    rows = [
        [int(n) for n in shape.split(",")]
        for shape in re.findall(r"= f32\[([\d,]+)\]\S* collective-permute(?:-start)?\(", text)
    ]
    assert rows
    assert max(shape[1] for shape in rows if len(shape) == 4) <= 4


@pytest.mark.slow
def test_gradients_where_rows_do_not_divide_evenly(monkeypatch, rng):
    """Of 40 rows on 8 devices the features have 20, 10 and 5: as on one device."""
    monkeypatch.setitem(resnet.BLOCKS, "resnet18", (1, 1, 1, 1))
    model = DANet(4, backbone="resnet18", dropout_rate=0.0)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    images = rng.normal(size=(2, 40, 24, 3)).astype(np.float32)
    labels = rng.integers(0, 4, (2, 40, 24), np.uint8)

    def loss(params, images, labels):
        logits, _ = model.apply(
            variables | {"params": params}, images, train=True, upsample=False, mutable=["batch_stats"]
        )
        return multi_loss(logits, labels, valid_pixels(labels), align_corners=True)[0]

    def gradients(space):
        mesh = make_mesh(1, space, jax.devices()[:space])
        params = jax.device_put(variables["params"], NamedSharding(mesh, PartitionSpec()))
        divided = NamedSharding(mesh, PartitionSpec("data", "space"))
        return jax.jit(jax.grad(loss))(params, *jax.device_put((images, labels), divided))

    for one, several in zip(*(jax.tree.leaves(gradients(space)) for space in (1, 8)), strict=True):
        np.testing.assert_allclose(several, one, atol=1e-2 * max(np.abs(one).max(), 1e-5))
