"""The axis `space` of the mesh: rows stay divided over devices in the whole training step."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from danet_jax import DANet
from danet_jax.models import resnet
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
