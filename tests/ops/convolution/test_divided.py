"""The gradient to the kernel where devices share the rows of images, against torch's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.ops.convolution import convolution
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


def test_a_single_place_has_no_neighbours():
    x, kernel = jnp.zeros((2, 16, 9, 3)), jnp.zeros((1, 1, 3, 2))
    assert not can_be_divided(x, kernel, Geometry(1, 0, 2), mesh(2, 4).abstract_mesh)


def test_a_mesh_of_rows_alone_is_left_to_xla():
    x, kernel = jnp.zeros((2, 16, 9, 3)), jnp.zeros((3, 3, 3, 2))
    over = Mesh(np.asarray(jax.devices()[:4]), ("space",))
    assert not can_be_divided(x, kernel, Geometry(1, 2, 2), over.abstract_mesh)


@pytest.mark.parametrize("rows", [3, 5, 7])
def test_rows_that_do_not_divide_evenly(rng, rows):
    """XLA's own gradient was wrong here: some of 8 devices hold no row of what the stride leaves."""
    x, weight = rng.normal(size=(2, rows, 6, 3)), rng.normal(size=(3, 3, 3, 4))
    kernel = torch.from_numpy(weight).permute(3, 2, 0, 1).requires_grad_()
    y = torch.nn.functional.conv2d(torch.from_numpy(x).permute(0, 3, 1, 2), kernel, stride=2, padding=1)
    (expected,) = torch.autograd.grad(y.sin().sum(), kernel)
    over = mesh(1, 8)
    divided = NamedSharding(over, PartitionSpec("data", "space"))

    def loss(x, weight):
        x = jax.lax.with_sharding_constraint(x, divided)
        return jnp.sin(convolution(x, weight, stride=2, padding=1)).sum()

    with jax.enable_x64(True):
        placed = jax.device_put((x, weight), NamedSharding(over, PartitionSpec()))
        gradient = jax.jit(jax.grad(loss, argnums=1))(*placed)
    np.testing.assert_allclose(gradient, expected.permute(2, 3, 1, 0), rtol=1e-11, atol=1e-11)
