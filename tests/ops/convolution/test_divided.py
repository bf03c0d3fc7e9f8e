"""The gradient to the kernel where devices share the rows of images, against torch's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.ops.convolution.divided import can_be_divided, divided_kernel_gradient
from danet_jax.ops.convolution.xla import Geometry


def mesh(data, space):
    return Mesh(np.asarray(jax.devices()[: data * space]).reshape(data, space), ("data", "space"))


@pytest.mark.parametrize(("space", "rows", "dilation"), [(2, 5, 2), (4, 4, 4), (4, 6, 3), (4, 16, 16)])
def test_gradient_of_divided_rows(rng, space, rows, dilation):
    width = int(rng.integers(5, 20))
    x, dy = (rng.normal(size=(4, rows * space, width, channels)) for channels in (3, 2))
    weight = torch.zeros(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2), weight, padding=dilation, dilation=dilation
    )
    (expected,) = torch.autograd.grad(y, weight, torch.from_numpy(dy).permute(0, 3, 1, 2))
    over, geometry = mesh(2, space), Geometry(1, dilation, dilation)
    with jax.enable_x64(True):
        sharding = NamedSharding(over, PartitionSpec("data", "space"))
        placed = [jax.device_put(a, sharding) for a in (x, dy)]
        kernel = jax.ShapeDtypeStruct((3, 3, 3, 2), jnp.float64)
        assert can_be_divided(placed[0], kernel, geometry, over.abstract_mesh)
        gradient = jax.jit(lambda x, dy: divided_kernel_gradient(x, kernel, dy, geometry, over.abstract_mesh))
        np.testing.assert_allclose(gradient(*placed), expected.permute(2, 3, 1, 0), rtol=1e-11, atol=1e-11)
        assert "all-gather" not in gradient.lower(*placed).compile().as_text()


@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        ((2, 16, 9), Geometry(1, 8, 8)),  # the kernel reaches over more than a neighbour's 4 rows
        ((2, 18, 9), Geometry(1, 2, 2)),  # 18 rows over 4 devices
        ((3, 16, 9), Geometry(1, 2, 2)),  # 3 images over 2
        ((2, 16, 9), Geometry(1, 0, 2)),  # rows of the result are not those of the input
    ],
)
def test_what_is_left_to_xla(shape, geometry):
    x, kernel = jnp.zeros((*shape, 3)), jnp.zeros((3, 3, 3, 2))
    assert not can_be_divided(x, kernel, geometry, mesh(2, 4).abstract_mesh)


def test_a_mesh_of_rows_alone_is_left_to_xla():
    x, kernel = jnp.zeros((2, 16, 9, 3)), jnp.zeros((3, 3, 3, 2))
    over = Mesh(np.asarray(jax.devices()[:4]), ("space",))
    assert not can_be_divided(x, kernel, Geometry(1, 2, 2), over.abstract_mesh)
